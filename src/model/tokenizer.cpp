#include "model/tokenizer.hpp"

#include <utility>

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/json_file.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;

namespace {

constexpr std::int32_t largest_id = (1 << 24) - 1;  // beyond any vocabulary; a wrong id must not ask for all memory

// The ids of pieces seen before in this text: words repeat.
class PieceCache {
 public:
  explicit PieceCache(const Bpe& bpe) : bpe_(bpe) {}

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) {
    if (piece.size() > longest_piece) return bpe_.encode(piece, ids);
    const auto found = pieces_.find(piece);
    if (found != pieces_.end()) {
      ids.insert(ids.end(), found->second.begin(), found->second.end());
      return;
    }
    const auto start = static_cast<std::ptrdiff_t>(ids.size());
    bpe_.encode(piece, ids);
    if (pieces_.size() < most_pieces) pieces_.emplace(piece, std::vector(ids.begin() + start, ids.end()));
  }

 private:
  static constexpr std::size_t longest_piece = 64;
  static constexpr std::size_t most_pieces = 1 << 17;
  const Bpe& bpe_;
  StringMap<std::vector<std::int32_t>> pieces_;
};

const json& part_of(const json& file, const char* name) {
  static const json null;
  return file.contains(name) ? file[name] : null;
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  const auto file = read_json_object(tokenizer_json);
  try {
    return Tokenizer(file);
  } catch (const json::exception& error) {
    fail("{}: {}", tokenizer_json.string(), json_problem(error));
  } catch (const Error& error) {
    fail("{}: {}", tokenizer_json.string(), error.what());
  }
}

// Truncation and padding of the file are left out on purpose: a prompt is never cut or filled up.
Tokenizer::Tokenizer(const json& file)
    : normalizer_(part_of(file, "normalizer")),
      pre_tokenizer_(part_of(file, "pre_tokenizer")),
      bpe_(part_of(file, "model")),
      decoder_(part_of(file, "decoder")) {
  check_kinds();
  read_tokens(file);
  read_beginning_of_sequence(part_of(file, "post_processor"), "post_processor");
}

void Tokenizer::check_kinds() const {
  const bool characters = bpe_.byte_fallback();
  const auto* needed = characters ? "no ByteLevel" : "ByteLevel";
  if (pre_tokenizer_.byte_level() == characters) {
    fail("model.byte_fallback is {}, which needs a pre_tokenizer with {}", characters, needed);
  }
  if (decoder_.byte_level() == characters) {
    fail("model.byte_fallback is {}, which needs a decoder with {}", characters, needed);
  }
}

void Tokenizer::read_tokens(const json& file) {
  for (const auto& [spelling, id] : file["model"]["vocab"].items()) set_token(id.get<std::int32_t>(), spelling);
  for (auto& token : read_added_tokens(part_of(file, "added_tokens"))) {
    const auto known = token_id(token.content);
    if (known && *known != token.id) {
      fail("the added token '{}' has two ids: {} and {} (model.vocab)", token.content, token.id, *known);
    }
    added_ids_[token.content] = token.id;
    if (token.normalized) token.content = normalizer_.apply(token.content);
    set_token(token.id, token.content);
    special_[static_cast<std::size_t>(token.id)] = token.special;
    auto& finder = token.normalized ? normalized_tokens_ : literal_tokens_;
    finder.add(std::move(token));
  }
}

void Tokenizer::set_token(std::int32_t id, const std::string& spelling) {
  if (id < 0 || id > largest_id) fail("token '{}' has the id {}, must be 0 to {}", spelling, id, largest_id);
  const auto index = static_cast<std::size_t>(id);
  if (index >= token_bytes_.size()) {
    token_bytes_.resize(index + 1);
    special_.resize(index + 1);
  }
  token_bytes_[index] = bpe_.bytes_of(spelling).value_or(spelling);
}

void Tokenizer::read_beginning_of_sequence(const json& post_processor, const std::string& where) {
  if (post_processor.is_null()) return;
  json_expect(post_processor, where, "type", {"ByteLevel", "TemplateProcessing", "Sequence"});
  const auto type = json_field<std::string>(post_processor, where, "type");
  if (type == "Sequence") {
    const auto steps = json_field<json::array_t>(post_processor, where, "processors");
    for (std::size_t i = 0; i < steps.size(); ++i) {
      read_beginning_of_sequence(steps[i], fmt::format("{}.processors[{}]", where, i));
    }
  } else if (type == "TemplateProcessing") {
    const auto pieces = json_field<json::array_t>(post_processor, where, "single");
    if (pieces.empty() || !pieces[0].contains("SpecialToken")) return;
    const auto token = json_field<std::string>(pieces[0]["SpecialToken"], where + ".single[0].SpecialToken", "id");
    beginning_of_sequence_ = token_id(token);
    if (!beginning_of_sequence_) fail("{}.single starts with '{}', which is not a token", where, token);
  }
}

std::vector<std::int32_t> Tokenizer::encode_text(std::string_view text, bool recognise_special) const {
  const auto invalid = find_invalid_utf8(text);
  if (invalid < text.size()) fail("the text is not UTF-8 at byte {}; convert it to UTF-8", invalid);

  std::vector<std::int32_t> ids;
  PieceCache cache(bpe_);
  bool first = true;  // nothing of the text is done yet
  const auto encode_part = [&](std::string_view part) { cache.encode(part, ids); };
  const auto encode_piece = [&](std::string_view piece) { bpe_.split(piece, encode_part); };
  const auto encode_normalized = [&](std::string_view part, std::optional<std::int32_t> id) {
    if (id) {
      ids.push_back(*id);
    } else {
      pre_tokenizer_.split(part, first, encode_piece);
    }
    first = false;
  };
  const auto encode_literal = [&](std::string_view part, std::optional<std::int32_t> id) {
    if (id) return encode_normalized(part, id);
    if (normalizer_.empty()) return normalized_tokens_.split(part, recognise_special, encode_normalized);
    normalized_tokens_.split(normalizer_.apply(part), recognise_special, encode_normalized);
  };
  literal_tokens_.split(text, recognise_special, encode_literal);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::vector<std::string> tokens;
  for (const auto id : ids) {
    const auto index = static_cast<std::size_t>(id);  // a negative id is beyond any vocabulary
    if (index < token_bytes_.size() && !special_[index]) tokens.push_back(token_bytes_[index]);
  }
  return decoder_.decode(std::move(tokens));
}

std::optional<std::int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto added = added_ids_.find(token);
  if (added != added_ids_.end()) return added->second;
  const auto bytes = bpe_.bytes_of(token);
  return bytes ? bpe_.id_of(*bytes) : std::nullopt;
}

}  // namespace apb
