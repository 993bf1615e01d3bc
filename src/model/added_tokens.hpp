// Added tokens (control tokens and others) that are recognised in text before it is cut into pieces.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace apb {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool special = false;     // left out when decoding
  bool normalized = false;  // looked for in the normalised text
};

/// Reads `added_tokens` of tokenizer.json.
std::vector<AddedToken> read_added_tokens(const nlohmann::json& list);

/// Finds added tokens in text.
class AddedTokenFinder {
 public:
  /// Gets the text before, between and behind tokens (no id; never empty), and the tokens (id).
  using Visitor = std::function<void(std::string_view part, std::optional<std::int32_t> id)>;

  void add(AddedToken token);

  /// Visits the parts of the text in order. The leftmost token counts, of several the longest.
  /// Without `recognise_special` a special token's characters are ordinary text.
  void split(std::string_view text, bool recognise_special, const Visitor& visit) const;

 private:
  const AddedToken* find_at(std::string_view text, std::size_t offset) const;

  std::array<std::vector<AddedToken>, 256> by_first_byte_;  // longer ones first
};

}  // namespace apb
