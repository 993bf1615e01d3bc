#include "tasks/metrics.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <map>

namespace apb {
namespace {

using Text = std::u32string;
using Words = std::vector<Text>;
using Answers = std::vector<std::string>;

constexpr std::array<std::pair<std::string_view, Metric>, 6> metrics = {{
    {"match_all", Metric::match_all},
    {"match_any", Metric::match_any},
    {"first_integer", Metric::first_integer},
    {"word", Metric::word},
    {"exact", Metric::exact},
    {"f1", Metric::f1},
}};

Text decode(std::string_view utf8) {
  Text text;
  while (!utf8.empty()) {
    utf8proc_int32_t character = 0;
    const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(utf8.data()),
                                        static_cast<utf8proc_ssize_t>(utf8.size()), &character);
    text += bytes > 0 ? static_cast<char32_t>(character) : U'\uFFFD';
    utf8.remove_prefix(bytes > 0 ? static_cast<std::size_t>(bytes) : 1);
  }
  return text;
}

Text lower(Text text) {
  for (char32_t& c : text) c = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  return text;
}

/// White space as the public scoring code, which is Python, sees it.
bool is_space(char32_t c) {
  return (c >= U'\t' && c <= U'\r') || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0x2028 || c == 0x2029 ||
         utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ZS;
}

bool is_punctuation(char32_t c) {
  return (c >= U'!' && c <= U'/') || (c >= U':' && c <= U'@') || (c >= U'[' && c <= U'`') || (c >= U'{' && c <= U'~');
}

bool is_word_character(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
         (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

Text strip(const Text& text) {
  const auto begin = std::ranges::find_if_not(text, is_space);
  const auto end = std::find_if_not(text.rbegin(), std::make_reverse_iterator(begin), is_space).base();
  return {begin, end};
}

Words split(const Text& text) {
  Words words;
  bool inside = false;
  for (const char32_t c : text) {
    const bool space = is_space(c);
    if (!space && !inside) words.emplace_back();
    if (!space) words.back() += c;
    inside = !space;
  }
  return words;
}

/// RULER's treatment of a prediction: stripped, with control characters as line ends.
Text printable(std::string_view prediction) {
  Text text = strip(decode(prediction));
  std::ranges::replace_if(
      text, [](char32_t c) { return c < 0x20; }, U'\n');
  return strip(text);
}

double share_found(std::string_view prediction, const Answers& answers) {
  const Text text = lower(printable(prediction));
  const auto found = std::ranges::count_if(
      answers, [&](const std::string& answer) { return text.find(lower(decode(answer))) != Text::npos; });
  return static_cast<double>(found) / static_cast<double>(answers.size());
}

std::string_view first_digits(std::string_view text) {
  constexpr std::string_view digits = "0123456789";
  const auto begin = text.find_first_of(digits);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_first_not_of(digits, begin) - begin);
}

bool has_word(std::string_view prediction, const std::string& answer) {
  constexpr std::u32string_view separators = U"\n:\"'.,?!{}";
  Text text = decode(prediction);
  std::ranges::replace_if(
      text, [&](char32_t c) { return separators.find(c) != separators.npos; }, U' ');
  const Words words = split(text);
  return std::ranges::find(words, decode(answer)) != words.end();
}

Text without_articles(const Text& text) {
  Text result;
  Text word;
  const auto end_word = [&] {
    const bool article = word == U"a" || word == U"an" || word == U"the";
    result += article ? U" " : word;
    word.clear();
  };
  for (const char32_t c : text) {
    if (is_word_character(c)) {
      word += c;
    } else {
      end_word();
      result += c;
    }
  }
  end_word();
  return result;
}

/// SQuAD's normalisation: lower case, without punctuation and articles, one space between words.
Words normalised(std::string_view utf8) {
  Text text = lower(decode(utf8));
  std::erase_if(text, is_punctuation);
  return split(without_articles(text));
}

double shared_words(const Words& prediction, const Words& answer) {
  std::map<Text, int> left;
  for (const Text& word : answer) ++left[word];
  const auto shared = std::ranges::count_if(prediction, [&](const Text& word) {
    const auto found = left.find(word);
    return found != left.end() && found->second-- > 0;
  });
  return shared == 0 ? 0 : 2.0 * static_cast<double>(shared) / static_cast<double>(prediction.size() + answer.size());
}

double best_f1(std::string_view prediction, const Answers& answers) {
  const Words words = normalised(prediction);
  double best = 0;
  for (const auto& answer : answers) best = std::max(best, shared_words(words, normalised(answer)));
  return best;
}

bool is_one_of(std::string_view prediction, const Answers& answers) {
  const Words words = normalised(prediction);
  return std::ranges::any_of(answers, [&](const std::string& answer) { return normalised(answer) == words; });
}

}  // namespace

std::optional<Metric> metric_named(std::string_view name) {
  const auto* found = std::ranges::find(metrics, name, [](const auto& entry) { return entry.first; });
  return found == metrics.end() ? std::nullopt : std::optional(found->second);
}

std::string metric_names() {
  std::string names;
  for (const auto& [name, unused] : metrics) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

double score_answer(Metric metric, std::string_view prediction, const Answers& answers) {
  switch (metric) {
    case Metric::match_all:
      return share_found(prediction, answers);
    case Metric::match_any:
      return share_found(prediction, answers) > 0 ? 1 : 0;
    case Metric::first_integer:
      return first_digits(prediction) == answers.front() ? 1 : 0;
    case Metric::word:
      return has_word(prediction, answers.front()) ? 1 : 0;
    case Metric::exact:
      return is_one_of(prediction, answers) ? 1 : 0;
    case Metric::f1:
      return best_f1(prediction, answers);
  }
  return 0;
}

}  // namespace apb
