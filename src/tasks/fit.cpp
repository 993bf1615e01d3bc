#include "tasks/fit.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "error.hpp"

namespace apb {
namespace {

constexpr std::size_t window = 256;  // bytes around the filler; what tokens it has depends on no more
constexpr std::size_t scanned = 64;  // bytes around the first guess that are tried one by one
constexpr int most_corrections = 6;
constexpr std::int64_t first_step = 16;  // units, to learn how long they are
constexpr std::int64_t small_gap = 16;   // tokens that filler may take though another unit would go in

bool starts_character(std::string_view text, std::size_t byte) {
  return byte >= text.size() || (static_cast<unsigned char>(text[byte]) & 0xC0U) != 0x80U;
}

bool ends_word(std::string_view text, std::size_t byte) {
  return byte == 0 || byte == text.size() || text[byte] == ' ' || text[byte] == '\n';
}

std::string_view last_bytes(std::string_view text) {
  std::size_t from = text.size() - std::min(window, text.size());
  while (!starts_character(text, from)) ++from;
  return text.substr(from);
}

std::string_view first_bytes(std::string_view text) {
  std::size_t to = std::min(window, text.size());
  while (!starts_character(text, to)) --to;
  return text.substr(0, to);
}

std::string context_of(const Draft& draft, std::size_t filler_bytes) {
  return draft.before + draft.filler.substr(0, filler_bytes) + draft.after;
}

/// The beginning of the filler for which `tokens_with` is `goal`: the longest near there that ends with a word, else
/// with any character.
template <typename TokensWith>
std::optional<std::size_t> find_beginning(std::string_view filler, std::int64_t goal, const TokensWith& tokens_with) {
  std::size_t low = 0;
  std::size_t high = filler.size();
  while (low < high) {
    std::size_t middle = (low + high) / 2;
    while (!starts_character(filler, middle)) --middle;
    if (tokens_with(middle) < goal) {
      low = middle + 1;
      while (!starts_character(filler, low)) ++low;
    } else {
      high = middle;
    }
  }
  std::optional<std::size_t> any;
  const std::size_t last = std::min(filler.size(), low + scanned);
  const std::size_t first = low - std::min(low, scanned);
  for (std::size_t bytes = last + 1; bytes-- > first;) {
    if (!starts_character(filler, bytes) || tokens_with(bytes) != goal) continue;
    if (ends_word(filler, bytes)) return bytes;
    if (!any) any = bytes;
  }
  return any;
}

std::string lower_case(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

/// Whether an answer stands anywhere but in the evidence, as a scorer would see it.
bool has_stray_answer(const std::string& context, std::vector<TextRange> evidence,
                      const std::vector<std::string>& answers) {
  std::string rest = context;
  std::sort(evidence.begin(), evidence.end());
  for (auto range = evidence.rbegin(); range != evidence.rend(); ++range) {
    rest.replace(range->first, range->second - range->first, 1, '\n');
  }
  rest = lower_case(std::move(rest));
  return std::any_of(answers.begin(), answers.end(),
                     [&](const std::string& answer) { return rest.find(lower_case(answer)) != std::string::npos; });
}

}  // namespace

std::int64_t Fitter::length(const Draft& draft, std::size_t filler_bytes) const {
  const Prompt prompt =
      build_prompt(template_, tokenizer_, context_of(draft, filler_bytes), draft.query, draft.answer_prefix);
  return static_cast<std::int64_t>(prompt.context.size() + prompt.query.size());
}

/// Units are nearly of one length each, so few are tried: the length goes on from the last one tried as it went so far.
/// What is missing in the end is filler.
std::int64_t Fitter::most_units_within(const TaskDefinition& task, const TaskRandom& random,
                                       std::int64_t length) const {
  const std::int64_t fewest_tokens = this->length(task.draft(random, task.fewest_units), 0);
  std::int64_t low = task.fewest_units;
  std::int64_t high = task.most_units + 1;
  std::int64_t units = low + first_step;
  while (low + 1 < high) {
    units = std::clamp(units, low + 1, high - 1);
    const std::int64_t tokens = this->length(task.draft(random, units), 0);
    const std::int64_t per_unit = std::max<std::int64_t>(1, (tokens - fewest_tokens) / (units - task.fewest_units));
    const std::int64_t missing = length - tokens;
    (missing >= 0 ? low : high) = units;
    if (missing >= 0 && missing < std::max(2 * per_unit, small_gap)) break;
    units += missing >= 0 ? missing / per_unit : -(-missing + per_unit - 1) / per_unit;
  }
  return low;
}

std::optional<std::size_t> Fitter::exact_filler(const Draft& draft, std::int64_t length) const {
  const std::string before(last_bytes(draft.before));
  const std::string after(first_bytes(draft.after));
  const auto tokens_with = [&](std::size_t bytes) {
    return static_cast<std::int64_t>(tokenizer_.encode_ordinary(before + draft.filler.substr(0, bytes) + after).size());
  };
  std::int64_t missing = length - this->length(draft, 0);
  std::int64_t goal = tokens_with(0);
  std::size_t bytes = 0;
  for (int correction = 0; missing != 0 && correction < most_corrections; ++correction) {
    goal += missing;
    const auto found = find_beginning(draft.filler, goal, tokens_with);
    if (!found) return std::nullopt;
    bytes = *found;
    missing = length - this->length(draft, bytes);
  }
  return missing == 0 ? std::optional(bytes) : std::nullopt;
}

Sample Fitter::finished(const Draft& draft, std::size_t filler_bytes) const {
  Sample sample{context_of(draft, filler_bytes), draft.query, draft.answer_prefix, draft.answers, {}};
  const Prompt empty = build_prompt(template_, tokenizer_, "", draft.query);
  const auto all = tokenizer_.encode_ordinary(sample.context);
  // Where a text is cut, its tokens end otherwise than in the whole.
  const auto tokens_until = [&](std::size_t byte) {
    return tokenizer_.encode_ordinary(sample.context.substr(0, byte));
  };
  for (const auto& [first, second] : draft.evidence) {
    const auto until = tokens_until(first);
    const auto differs = std::mismatch(until.begin(), until.end(), all.begin(), all.end()).first;
    sample.evidence.emplace_back(empty.prefix_length + (differs - until.begin()),
                                 empty.prefix_length + static_cast<std::int64_t>(tokens_until(second).size()));
  }
  return sample;
}

std::optional<Sample> Fitter::fit(const TaskDefinition& task, const TaskRandom& random, std::int64_t length) const {
  const std::int64_t units = most_units_within(task, random, length);
  const Draft draft = task.draft(random, units);
  if (units == task.most_units && this->length(draft, draft.filler.size()) < length) {
    fail("{} tokens are more than {}", length, task.what_runs_out);
  }
  const auto filler_bytes = exact_filler(draft, length);
  if (!filler_bytes) return std::nullopt;
  if (draft.answers_only_there && has_stray_answer(context_of(draft, *filler_bytes), draft.evidence, draft.answers)) {
    return std::nullopt;
  }
  return finished(draft, *filler_bytes);
}

}  // namespace apb
