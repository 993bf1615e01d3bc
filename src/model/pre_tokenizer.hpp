// Cuts text into the pieces that byte-pair encoding works on.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/metaspace.hpp"
#include "model/pieces.hpp"

struct pcre2_real_code_8;

namespace apb {

/// A compiled regular expression in the syntax of tokenizer.json.
class SplitRegex {
 public:
  /// Fails with the pattern and the place in it, where it cannot be compiled.
  explicit SplitRegex(const std::string& pattern);

  /// Visits the matches and the text between them, in order; text must be well-formed UTF-8.
  void split(std::string_view text, const PieceVisitor& visit) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

class PreTokenizer {
 public:
  /// Reads `pre_tokenizer` of tokenizer.json: ByteLevel, or a Sequence of Split and Digits that ends with ByteLevel;
  /// or, for vocabularies that spell characters, Metaspace or null.
  explicit PreTokenizer(const nlohmann::json& description);

  /// Visits the pieces of the text in order; text must be well-formed UTF-8. `first`: where the whole text begins.
  void split(std::string_view text, bool first, const PieceVisitor& visit) const;

  bool byte_level() const { return byte_level_; }

 private:
  void add_step(const nlohmann::json& step, const std::string& where);
  void split_from(std::size_t step, std::string_view text, const PieceVisitor& visit) const;
  void split_bytes(std::string_view text, const PieceVisitor& visit) const;

  std::vector<SplitRegex> splits_;        // each cuts the pieces of the one before
  std::optional<SplitRegex> byte_split_;  // ByteLevel's own, after the space is added
  bool add_prefix_space_ = false;
  bool byte_level_ = false;
  std::optional<Metaspace> metaspace_;  // the only step where there is one
};

}  // namespace apb
