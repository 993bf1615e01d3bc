#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pre_tokenizer.hpp"

#include <pcre2.h>

#include <array>
#include <cstdint>
#include <limits>

#include "error.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;

namespace {

// ByteLevel's pattern when use_regex is true.
constexpr const char* byte_level_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Unicode's White_Space. PCRE2's own \s has U+180E besides, which is no white space since Unicode 6.3.
constexpr const char* white_space =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// The pattern for PCRE2: \s and \S written out. Fails on class syntax that PCRE2 would read differently.
std::string translate_pattern(const std::string& pattern) {
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const auto pair = pattern.substr(i, 2);
    if (pair == "\\s") {
      result += in_class ? white_space : std::string("[") + white_space + "]";
    } else if (pair == "\\S" && !in_class) {
      result += std::string("[^") + white_space + "]";
    } else if (in_class && (pair == "\\S" || pair == "&&" || pair[0] == '[')) {
      fail("pattern '{}' has '{}' inside a character class, which is not supported", pattern, pair);
    } else if (pair[0] == '\\') {
      result += pair;
    } else {
      if (pair[0] == '[') in_class = true;
      if (pair[0] == ']') in_class = false;
      result += pair[0];
      continue;
    }
    ++i;  // both characters of the pair are done
  }
  return result;
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;
using MatchContext = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;

}  // namespace

void SplitRegex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

SplitRegex::SplitRegex(const std::string& pattern) {
  const auto translated = translate_pattern(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP,
                            &error, &offset, nullptr));
  if (!code_)
    fail("pattern '{}' cannot be compiled: {} at '{}'", pattern, pcre2_message(error), translated.substr(offset));
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where PCRE2 has no JIT it interprets, with the same result
}

void SplitRegex::split(std::string_view text, const PieceVisitor& visit) const {
  const MatchData match(pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
  const MatchContext context(pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  if (!match || !context) fail("not enough memory to cut text into words");
  // The default of 10 million steps is for hostile patterns; a long run of spaces takes a step for each.
  pcre2_set_match_limit(context.get(), std::numeric_limits<std::uint32_t>::max());
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t done = 0;
  while (done < text.size()) {
    const int result = pcre2_match(code_.get(), subject, text.size(), done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                                   match.get(), context.get());
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) fail("text cannot be cut into words at byte {}: {}", done, pcre2_message(result));
    const auto* bounds = pcre2_get_ovector_pointer(match.get());
    if (bounds[0] > done) visit(text.substr(done, bounds[0] - done));
    visit(text.substr(bounds[0], bounds[1] - bounds[0]));
    done = bounds[1];
  }
  if (done < text.size()) visit(text.substr(done));
}

PreTokenizer::PreTokenizer(const json& description) {
  const std::string where = "pre_tokenizer";
  if (description.is_null()) return;
  if (description.is_object() && description.value("type", "") == "Metaspace") {
    metaspace_.emplace(description, where);
    return;
  }
  if (description.is_object() && description.value("type", "") == "Sequence") {
    const auto steps = json_field<json::array_t>(description, where, "pretokenizers");
    for (std::size_t i = 0; i < steps.size(); ++i) add_step(steps[i], fmt::format("{}.pretokenizers[{}]", where, i));
  } else {
    add_step(description, where);
  }
  if (!byte_level_) fail("pre_tokenizer does not end with ByteLevel; 'Metaspace' must be alone");
}

void PreTokenizer::add_step(const json& step, const std::string& where) {
  if (byte_level_) fail("{} comes after ByteLevel, which must be the last step", where);
  const auto type = json_field<std::string>(step, where, "type");
  if (type == "Split") {
    json_expect(step, where, "behavior", {"Isolated"});
    json_expect(step, where, "invert", {false});
    const auto& pattern = json_child(step, where, "pattern");
    splits_.emplace_back(json_field<std::string>(pattern, where + ".pattern", "Regex"));
  } else if (type == "Digits") {
    splits_.emplace_back(json_field<bool>(step, where, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)");
  } else if (type == "ByteLevel") {
    json_expect(step, where, "use_regex", {true, false});
    if (step.value("use_regex", true)) byte_split_.emplace(byte_level_pattern);
    add_prefix_space_ = json_field<bool>(step, where, "add_prefix_space");
    byte_level_ = true;
  } else {
    fail("{}.type is '{}', supported: 'Split', 'Digits', 'ByteLevel', and alone 'Metaspace'", where, type);
  }
}

void PreTokenizer::split(std::string_view text, bool first, const PieceVisitor& visit) const {
  if (byte_level_) return split_from(0, text, visit);
  if (metaspace_) return metaspace_->split(text, first, visit);
  if (!text.empty()) visit(text);
}

void PreTokenizer::split_from(std::size_t step, std::string_view text, const PieceVisitor& visit) const {
  if (step == splits_.size()) return split_bytes(text, visit);
  splits_[step].split(text, [&](std::string_view part) { split_from(step + 1, part, visit); });
}

void PreTokenizer::split_bytes(std::string_view text, const PieceVisitor& visit) const {
  std::string prefixed;
  if (add_prefix_space_ && !text.empty() && text[0] != ' ') {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  if (byte_split_) {
    byte_split_->split(text, visit);
  } else if (!text.empty()) {
    visit(text);
  }
}

}  // namespace apb
