// Changes to text before it is cut into pieces.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace apb {

class Normalizer {
 public:
  /// Reads `normalizer` of tokenizer.json: null, NFC, Prepend, Replace of a string, or a Sequence of them.
  explicit Normalizer(const nlohmann::json& description);

  /// Nothing is done to any text.
  bool empty() const { return steps_.empty(); }

  /// The normalised text, of well-formed UTF-8.
  std::string apply(std::string_view text) const;

 private:
  using Step = std::function<std::string(std::string)>;
  void add_step(const nlohmann::json& step, const std::string& where);

  std::vector<Step> steps_;
};

}  // namespace apb
