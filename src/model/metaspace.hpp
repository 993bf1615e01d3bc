// How SentencePiece-style tokenizer.json files spell spaces: by a visible character, U+2581 as a rule.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "model/pieces.hpp"

namespace apb {

/// A Metaspace pre-tokenizer or decoder.
class Metaspace {
 public:
  /// Reads replacement, prepend_scheme (or the older add_prefix_space) and split; `where` names its place in the file.
  Metaspace(const nlohmann::json& description, const std::string& where);

  /// Visits the text with its spaces replaced and, where the scheme says so, one put before it; cut in front of each
  /// replaced space if the file asks for that. `first`: the text is where the whole text begins.
  void split(std::string_view text, bool first, const PieceVisitor& visit) const;

  /// The token with its spaces back; in the `first` token they are left out, unless nothing is ever put before a text.
  std::string decode(std::string_view token, bool first) const;

 private:
  enum class Prepend { first, always, never };

  std::string replacement_;
  Prepend prepend_ = Prepend::always;
  bool split_ = true;
};

}  // namespace apb
