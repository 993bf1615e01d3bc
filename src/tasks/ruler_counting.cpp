// cwe and fwe: which words occur most often.
#include <algorithm>
#include <iterator>
#include <set>

#include "error.hpp"
#include "tasks/ruler.hpp"

namespace apb {
namespace {

constexpr std::size_t asked_words = 10;
constexpr std::size_t filler_noise = 8;

/// How often words stand in a list, and in the example before it. Short prompts have no room for the published 30
/// and 3.
struct Repetitions {
  std::size_t common = 30;
  std::size_t uncommon = 3;
  std::size_t example_common = 10;
  std::size_t example_uncommon = 3;
  std::size_t example_words = 40;
};
constexpr Repetitions short_repetitions{6, 1, 3, 1, 20};
constexpr std::int64_t short_length = 4096;  // tokens; below it a prompt is short

std::vector<std::string> single_words(const WordLists& words) {
  std::vector<std::string> singles;
  std::set_union(words.adjectives.begin(), words.adjectives.end(), words.nouns.begin(), words.nouns.end(),
                 std::back_inserter(singles));
  return singles;
}

/// Words of which no answer is part of another one, so that a scorer that looks for them finds only what was meant.
class WordDraw {
 public:
  WordDraw(const WordLists& words, bool compounds, TaskRandom& random)
      : words_(words), compounds_(compounds), random_(random) {
    if (compounds) return;
    singles_ = single_words(words);
    random.shuffle(singles_);
  }

  std::vector<std::string> draw(std::size_t count, bool answers) {
    std::vector<std::string> drawn;
    while (drawn.size() < count) {
      std::string word = next();
      if (holds_answer(word) || (answers && is_part(word, drawn)) || !drawn_.insert(word).second) continue;
      if (answers) answers_.push_back(word);
      drawn.push_back(std::move(word));
    }
    return drawn;
  }

 private:
  std::string next() {
    if (compounds_) {
      const std::string& adjective = random_.choose(words_.adjectives);
      return adjective + "-" + random_.choose(words_.nouns);
    }
    if (singles_.empty()) fail("there are not enough words; give more with --words FILE");
    std::string word = std::move(singles_.back());
    singles_.pop_back();
    return word;
  }
  bool holds_answer(const std::string& word) const {
    return std::any_of(answers_.begin(), answers_.end(),
                       [&](const std::string& answer) { return word.find(answer) != std::string::npos; });
  }
  static bool is_part(const std::string& word, const std::vector<std::string>& others) {
    return std::any_of(others.begin(), others.end(),
                       [&](const std::string& other) { return other.find(word) != std::string::npos; });
  }

  const WordLists& words_;
  bool compounds_;
  TaskRandom& random_;
  std::vector<std::string> singles_;
  std::vector<std::string> answers_;
  std::set<std::string> drawn_;
};

std::string numbered(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) text += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, words[i]);
  return text;
}

void repeat(std::vector<std::string>& list, const std::vector<std::string>& words, std::size_t times) {
  for (std::size_t i = 0; i < times; ++i) list.insert(list.end(), words.begin(), words.end());
}

std::string instruction_and_list(const std::vector<std::string>& common, std::size_t common_times,
                                 const std::vector<std::string>& uncommon, std::size_t uncommon_times,
                                 TaskRandom& random) {
  std::vector<std::string> list;
  repeat(list, common, common_times);
  repeat(list, uncommon, uncommon_times);
  random.shuffle(list);
  return fmt::format(
      "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
      "appear most often.\n{}",
      numbered(list));
}

Draft draw_common_words(const WordLists& words, bool compounds, const Repetitions& repetitions, TaskRandom random,
                        std::size_t units) {
  WordDraw draw(words, compounds, random);
  const auto answers = draw.draw(asked_words, true);
  const auto example_answers = draw.draw(asked_words, false);
  const auto example_others = draw.draw(repetitions.example_words - asked_words, false);
  const auto others = draw.draw(units, false);
  Draft draft;
  draft.query = "Question: What are the 10 most common words in the above list?";
  draft.answer_prefix = " Answer: The top 10 words that appear most often in the list are:";
  draft.before = fmt::format("{}\n{}{} {}\n",
                             instruction_and_list(example_answers, repetitions.example_common, example_others,
                                                  repetitions.example_uncommon, random),
                             draft.query, draft.answer_prefix, numbered(example_answers));
  for (std::size_t i = 0; i < filler_noise; ++i) draft.filler += fmt::format("{} ", noise_sentences);
  draft.after =
      fmt::format("\n{}", instruction_and_list(answers, repetitions.common, others, repetitions.uncommon, random));
  draft.answers = answers;
  return draft;
}

constexpr std::size_t coded_letters = 6;
constexpr std::int64_t tokens_per_coded_word = 50;     // of the prompt, for each word of the vocabulary
constexpr std::uint64_t inverse_zeta_2 = 2611027020U;  // 6 / pi^2, times 2^32
constexpr std::int64_t fewest_coded_words = 200;
constexpr std::size_t filler_dots = 200;

Draft draw_frequent_words(std::size_t vocabulary_size, TaskRandom random, std::size_t units) {
  std::vector<std::string> vocabulary = {"..."};  // the most frequent word is noise
  std::set<std::string> drawn;
  while (vocabulary.size() < vocabulary_size) {
    std::string word;
    for (std::size_t i = 0; i < coded_letters; ++i) word += static_cast<char>('a' + random.below(26));
    if (drawn.insert(word).second) vocabulary.push_back(std::move(word));
  }
  std::vector<std::string> text;
  for (std::size_t rank = 1; rank <= vocabulary.size(); ++rank) {
    const std::uint64_t times = ((units * inverse_zeta_2) >> 32U) / (rank * rank);
    text.insert(text.end(), times, vocabulary[rank - 1]);
  }
  random.shuffle(text);
  Draft draft;
  draft.before = fmt::format(
      "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
      "appeared "
      "coded words. {}",
      fmt::join(text, " "));
  for (std::size_t i = 0; i < filler_dots; ++i) draft.filler += " ...";
  draft.query =
      "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
      "appeared words in the above coded text?";
  draft.answer_prefix = " Answer: According to the coded text above, the three most frequently appeared words are:";
  draft.answers = {vocabulary[1], vocabulary[2], vocabulary[3]};
  return draft;
}

}  // namespace

TaskDefinition common_words_task(const TaskFiles& files, std::int64_t length) {
  const auto words = std::make_shared<const WordLists>(read_words(files.words));
  const Repetitions repetitions = length < short_length ? short_repetitions : Repetitions{};
  // No entry of the list, with its number, takes fewer than three tokens; and some words are left out.
  const auto most_words = static_cast<std::size_t>(length) / (3 * repetitions.uncommon) + repetitions.example_words;
  const bool compounds = most_words > single_words(*words).size() * 19 / 20;
  return {.metric = "match_all",
          .max_new_tokens = 120,
          .draft = [words, repetitions, compounds](const TaskRandom& random, std::int64_t units) {
            return draw_common_words(*words, compounds, repetitions, random, static_cast<std::size_t>(units));
          }};
}

TaskDefinition frequent_words_task(std::int64_t length) {
  const auto vocabulary = static_cast<std::size_t>(std::max<std::int64_t>(5, length / tokens_per_coded_word));
  return {.metric = "match_all",
          .max_new_tokens = 50,
          .fewest_units = fewest_coded_words,
          .draft = [vocabulary](const TaskRandom& random, std::int64_t units) {
            return draw_frequent_words(vocabulary, random, static_cast<std::size_t>(units));
          }};
}

}  // namespace apb
