#include "model/bpe.hpp"

#include <limits>
#include <queue>
#include <utility>

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;

namespace {

constexpr std::string_view word_start = "\u2581";  // spells the space before a word

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80; }

/// The last character of well-formed UTF-8 that is not empty.
std::string_view last_character(std::string_view text) {
  auto start = text.size() - 1;
  while (start > 0 && continues_character(text[start])) --start;
  return text.substr(start);
}

/// The end of the character that starts there.
std::size_t end_of_character(std::string_view text, std::size_t start) {
  auto end = start + 1;
  while (end < text.size() && continues_character(text[end])) ++end;
  return end;
}

std::string byte_token(std::size_t byte) { return fmt::format("<0x{:02X}>", byte); }

std::pair<std::string, std::string> parse_merge(const json& merge, std::size_t index) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto text = merge.get<std::string>();
    const auto space = text.find(' ');
    if (space != std::string::npos) return {text.substr(0, space), text.substr(space + 1)};
  }
  fail("model.merges[{}] is {}, must be 'a b' or ['a', 'b']", index, merge.dump());
}

// A merge that was possible when it was found, as one number: its rank, then the position of the left symbol.
using Candidate = std::uint64_t;

Candidate make_candidate(std::int32_t rank, std::int32_t position) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(rank)) << 32U | static_cast<std::uint32_t>(position);
}

}  // namespace

Bpe::Bpe(const json& model) {
  json_expect(model, "model", "type", {"BPE"});
  json_expect(model, "model", "dropout", {nullptr, 0.0});
  json_expect(model, "model", "continuing_subword_prefix", {nullptr, ""});
  json_expect(model, "model", "end_of_word_suffix", {nullptr, ""});
  json_expect(model, "model", "byte_fallback", {false, true});
  byte_fallback_ = model.value("byte_fallback", false);
  if (!byte_fallback_) json_expect(model, "model", "fuse_unk", {false});  // otherwise nothing is unknown
  json_expect(model, "model", "ignore_merges", {false, true});
  ignore_merges_ = model.value("ignore_merges", false);
  read_vocabulary(model);
  read_merges(json_child(model, "model", "merges"));
}

void Bpe::read_vocabulary(const json& model) {
  const auto& vocabulary = json_child(model, "model", "vocab");
  ids_.reserve(vocabulary.size());
  for (const auto& [spelling, id] : vocabulary.items()) {
    if (!id.is_number_integer()) fail("model.vocab['{}'] is {}, must be an id", spelling, id.dump());
    auto bytes = bytes_of(spelling);
    if (bytes) ids_.emplace(std::move(*bytes), id.get<std::int32_t>());
  }
  read_byte_ids(model);
}

void Bpe::read_byte_ids(const json& model) {
  const auto& vocabulary = model["vocab"];
  if (byte_fallback_) {
    for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
      byte_ids_.at(byte) = json_field<std::int32_t>(vocabulary, "model.vocab", byte_token(byte));
    }
    return;
  }
  std::int32_t unknown_id = -1;
  if (model.contains("unk_token") && !model["unk_token"].is_null()) {
    unknown_id =
        json_field<std::int32_t>(vocabulary, "model.vocab", json_field<std::string>(model, "model", "unk_token"));
  }
  for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_.at(byte) = id_of(std::string(1, static_cast<char>(byte))).value_or(unknown_id);
  }
}

void Bpe::read_merges(const json& merges) {
  merges_.reset(merges.size());
  merged_ids_.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto [left, right] = parse_merge(merges.at(i), i);
    const auto find = [&, i = i](const std::string& spelling) {
      const auto bytes = bytes_of(spelling);
      const auto id = bytes ? id_of(*bytes) : std::nullopt;
      if (!id) fail("model.merges[{}] needs the token '{}', which is not in model.vocab", i, spelling);
      return *id;
    };
    const auto left_id = find(left);
    const auto right_id = find(right);
    merged_ids_.push_back(find(left + right));
    merges_.set(left_id, right_id, {static_cast<std::int32_t>(i), merged_ids_.back()});
    if (byte_fallback_) note_join(left, right);
  }
}

void Bpe::note_join(const std::string& left, const std::string& right) {
  if (!right.starts_with(word_start)) return;
  // A byte's token comes from any character outside the vocabulary, so its spelling does not tell where to look.
  if (left.starts_with("<0x"))
    fail("model.merges has '{} {}', a byte before a space, which is not supported", left, right);
  before_words_.emplace(last_character(left));
}

std::optional<std::string> Bpe::bytes_of(std::string_view spelling) const {
  return byte_fallback_ ? std::string(spelling) : bytes_of_spelling(spelling);
}

void Bpe::split(std::string_view piece, const PieceVisitor& visit) const {
  std::size_t start = 0;
  while (byte_fallback_ && !ignore_merges_) {
    auto next = piece.find(word_start, start + 1);
    while (next != std::string_view::npos &&
           before_words_.contains(std::string(last_character(piece.substr(0, next))))) {
      next = piece.find(word_start, next + 1);
    }
    if (next == std::string_view::npos) break;
    visit(piece.substr(start, next - start));
    start = next;
  }
  if (start < piece.size()) visit(piece.substr(start));
}

std::optional<std::int32_t> Bpe::id_of(std::string_view bytes) const {
  const auto found = ids_.find(bytes);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = id_of(piece)) return ids.push_back(*id);
  }
  if (piece.size() > std::numeric_limits<std::int32_t>::max()) {
    fail("a stretch of {} bytes without a word boundary is too long to tokenize", piece.size());
  }
  auto symbols = symbols_of(piece);
  if (symbols.empty()) return;
  apply_merges(symbols);
  for (const auto& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

std::vector<Bpe::Symbol> Bpe::symbols_of(std::string_view piece) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  const auto add = [&](std::int32_t id) {
    const auto position = static_cast<std::int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, position - 1, position + 1});
  };
  for (std::size_t start = 0, end = 0; start < piece.size(); start = end) {
    end = byte_fallback_ ? end_of_character(piece, start) : start + 1;
    const auto character = byte_fallback_ ? id_of(piece.substr(start, end - start)) : std::nullopt;
    if (character) {
      add(*character);
    } else {
      for (auto i = start; i < end; ++i) add(byte_ids_.at(static_cast<unsigned char>(piece[i])));
    }
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

Merge Bpe::find_merge(const std::vector<Symbol>& symbols, std::int32_t position) const {
  if (position < 0) return {};
  const auto& left = symbols[static_cast<std::size_t>(position)];
  if (left.id < 0 || left.next < 0) return {};
  return merges_.get(left.id, symbols[static_cast<std::size_t>(left.next)].id);
}

void Bpe::apply_merges(std::vector<Symbol>& symbols) const {
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto propose = [&](std::int32_t position) {
    if (const auto merge = find_merge(symbols, position); merge.rank >= 0) {
      candidates.push(make_candidate(merge.rank, position));
    }
  };
  for (std::int32_t position = 0; position < static_cast<std::int32_t>(symbols.size()); ++position) propose(position);

  while (!candidates.empty()) {
    const auto rank = static_cast<std::size_t>(candidates.top() >> 32U);
    const auto position = static_cast<std::int32_t>(candidates.top() & 0xFFFFFFFFU);
    candidates.pop();
    const auto id = merged_ids_[rank];
    if (find_merge(symbols, position).id != id) continue;  // an earlier merge took one of its symbols

    auto& left = symbols[static_cast<std::size_t>(position)];
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    left.id = id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = position;
    propose(left.previous);
    propose(position);
  }
}

}  // namespace apb
