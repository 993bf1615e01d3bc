// BPE tokenizer, read from a Hugging Face tokenizer.json: byte-level (GPT-2, SmolLM2, Llama-3, Qwen2 and Qwen3 kinds)
// or SentencePiece-style with byte fallback (Llama-2 and Yi kinds).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/added_tokens.hpp"
#include "model/bpe.hpp"
#include "model/decoder.hpp"
#include "model/normalizer.hpp"
#include "model/pre_tokenizer.hpp"

namespace apb {

/// Text to token ids and back. Constant use is thread-safe.
class Tokenizer {
 public:
  /// Fails with file, field and value where the file cannot be read or asks for something that is not supported.
  static Tokenizer load(const std::filesystem::path& tokenizer_json);

  /// Ids of the text; added tokens in it are recognised, no BOS is added. Fails on invalid UTF-8 with the byte offset.
  std::vector<std::int32_t> encode(std::string_view text) const { return encode_text(text, true); }

  /// As encode, but special tokens in the text are plain characters: for text that users give.
  std::vector<std::int32_t> encode_ordinary(std::string_view text) const { return encode_text(text, false); }

  /// Text of the ids, without special tokens and ids that are not in the vocabulary; bytes that are
  /// no UTF-8 become U+FFFD.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// The id of a token by its spelling in the file, e.g. "<|im_end|>".
  std::optional<std::int32_t> token_id(std::string_view token) const;

  /// The token that the file's post_processor puts before a text.
  std::optional<std::int32_t> beginning_of_sequence() const { return beginning_of_sequence_; }

  /// The highest id, plus one.
  int vocabulary_size() const { return static_cast<int>(token_bytes_.size()); }

 private:
  explicit Tokenizer(const nlohmann::json& file);
  void check_kinds() const;
  void read_tokens(const nlohmann::json& file);
  void read_beginning_of_sequence(const nlohmann::json& post_processor, const std::string& where);
  void set_token(std::int32_t id, const std::string& spelling);
  std::vector<std::int32_t> encode_text(std::string_view text, bool recognise_special) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  Decoder decoder_;
  AddedTokenFinder literal_tokens_;       // looked for in the text as it is
  AddedTokenFinder normalized_tokens_;    // looked for in the normalised text
  StringMap<std::int32_t> added_ids_;     // by content
  std::vector<std::string> token_bytes_;  // by id; as spelled where the vocabulary spells characters
  std::vector<bool> special_;             // by id
  std::optional<std::int32_t> beginning_of_sequence_;
};

}  // namespace apb
