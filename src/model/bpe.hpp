// Byte-pair encoding of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "model/merge_table.hpp"
#include "model/pieces.hpp"

namespace apb {

/// Hashes std::string and std::string_view alike, so that a lookup needs no copy.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <typename Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

class Bpe {
 public:
  /// Reads `model` of tokenizer.json: type BPE, vocab, merges ("a b" or ["a", "b"]), ignore_merges, unk_token,
  /// byte_fallback.
  explicit Bpe(const nlohmann::json& model);

  /// Appends the ids of the piece: single symbols, then the best-ranked merge first, the leftmost of equals.
  /// O(n log n). Symbols are bytes; those without a vocabulary entry become unk_token, or nothing where the file has
  /// none. With byte_fallback symbols are characters, or the bytes of those without an entry.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

  /// Visits parts of a piece that encode gives the same ids as the piece: where no merge can join a word to what is
  /// before it, the piece is cut. Keeps encode quick where the file does not cut text into words.
  void split(std::string_view piece, const PieceVisitor& visit) const;

  /// The vocabulary spells characters, and bytes as "<0x0A>"; otherwise it spells bytes.
  bool byte_fallback() const { return byte_fallback_; }

  /// What a spelling in the vocabulary stands for in a piece; nothing where it stands for no bytes.
  std::optional<std::string> bytes_of(std::string_view spelling) const;

  /// The id of the token with exactly these bytes.
  std::optional<std::int32_t> id_of(std::string_view bytes) const;

 private:
  struct Symbol {
    std::int32_t id;        // -1: merged into the symbol before
    std::int32_t previous;  // index, -1: none
    std::int32_t next;      // index, -1: none
  };

  void read_vocabulary(const nlohmann::json& model);
  void read_byte_ids(const nlohmann::json& model);
  void read_merges(const nlohmann::json& merges);
  void note_join(const std::string& left, const std::string& right);
  std::vector<Symbol> symbols_of(std::string_view piece) const;
  Merge find_merge(const std::vector<Symbol>& symbols, std::int32_t position) const;
  void apply_merges(std::vector<Symbol>& symbols) const;

  StringMap<std::int32_t> ids_;               // by the token's bytes
  std::array<std::int32_t, 256> byte_ids_{};  // -1: none
  MergeTable merges_;
  std::vector<std::int32_t> merged_ids_;  // by rank
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  std::unordered_set<std::string> before_words_;  // characters that a merge joins to a word's space behind them
};

}  // namespace apb
