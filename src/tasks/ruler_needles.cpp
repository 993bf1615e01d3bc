// niah_*: sentences that give a key its value, hidden among noise, prose or sentences of their own kind.
#include <algorithm>
#include <set>
#include <utility>

#include "error.hpp"
#include "tasks/ruler.hpp"

namespace apb {

const std::string_view noise_sentences =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

namespace {

constexpr std::size_t depth_count = 40;     // depths from 0 to 100 %, in whole per cent
constexpr std::size_t prose_filler = 4000;  // bytes
constexpr std::size_t noise_filler = 8;     // times all noise sentences

/// Texts of a kind, none of them twice.
class NeedleTexts {
 public:
  explicit NeedleTexts(const WordLists& words) : words_(words) {}

  std::string draw(NeedleText kind, TaskRandom& random) {
    for (;;) {
      std::string text = candidate(kind, random);
      if (drawn_.insert(text).second) return text;
    }
  }

 private:
  std::string candidate(NeedleText kind, TaskRandom& random) const {
    if (kind == NeedleText::numbers) return std::to_string(1'000'000 + random.below(9'000'000));
    if (kind == NeedleText::uuids) return random_uuid(random);
    const std::string& adjective = random.choose(words_.adjectives);
    return adjective + "-" + random.choose(words_.nouns);
  }

  const WordLists& words_;
  std::set<std::string> drawn_;
};

std::string plural(NeedleText kind) { return kind == NeedleText::uuids ? "uuids" : "numbers"; }

struct Needle {
  std::string text;
  bool asked = false;
};

/// Builds the context while it notes where the needles stand that are asked for.
class ContextText {
 public:
  explicit ContextText(Draft& draft) : draft_(draft) {}
  void add(std::string_view text, std::string_view separator) {
    if (!empty_) draft_.before += separator;
    draft_.before += text;
    empty_ = false;
  }
  void add(const Needle& needle, std::string_view separator) {
    add(needle.text, separator);
    if (needle.asked) draft_.evidence.emplace_back(draft_.before.size() - needle.text.size(), draft_.before.size());
  }

 private:
  Draft& draft_;
  bool empty_ = true;
};

/// Places before which the needles go, of `units` sentences, in ascending order.
std::vector<std::size_t> needle_places(Haystack haystack, std::size_t needles, std::size_t units, TaskRandom& random) {
  std::vector<std::size_t> places = random.sample(haystack == Haystack::essay ? depth_count : units, needles);
  std::sort(places.begin(), places.end());
  if (haystack == Haystack::essay) {
    for (std::size_t& place : places) {
      const std::size_t percent = (200 * place + depth_count - 1) / (2 * (depth_count - 1));
      place = units * percent / 100;
    }
  }
  return places;
}

/// The question and the needles of one sample.
struct Question {
  std::vector<Needle> needles;
  std::string keys;
  std::vector<std::string> answers;
};

std::string needle_sentence(const NeedleTask& task, NeedleTexts& texts, const std::string& key, std::string& value,
                            TaskRandom& random) {
  value = texts.draw(task.values, random);
  return fmt::format("One of the special magic {} for {} is: {}.", plural(task.values), key, value);
}

std::string listed(const std::vector<std::string>& keys) {
  if (keys.size() == 1) return keys.front();
  std::string text;
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) text += keys[i] + ", ";
  return text + "and " + keys.back();
}

Question draw_question(const NeedleTask& task, NeedleTexts& texts, TaskRandom& random) {
  Question question;
  std::vector<std::string> asked_keys;
  for (std::size_t number = 0; number < task.key_count; ++number) {
    const bool asked = number < task.queried_keys;
    const std::string key = texts.draw(task.keys, random);
    if (asked) asked_keys.push_back(key);
    for (std::size_t i = 0; i < task.values_per_key; ++i) {
      std::string value;
      question.needles.push_back({needle_sentence(task, texts, key, value, random), asked});
      if (asked) question.answers.push_back(std::move(value));
    }
  }
  question.keys = listed(asked_keys);
  random.shuffle(question.needles);
  return question;
}

void set_question(Draft& draft, const NeedleTask& task, const Question& question) {
  const bool one = question.answers.size() == 1;
  std::string kind = plural(task.values);
  if (one) kind.pop_back();
  draft.before = fmt::format(
      "{} special magic {} {} hidden within the following text. Make sure to memorize it. I will quiz you about the {} "
      "afterwards.\n",
      one ? "A" : "Some", kind, one ? "is" : "are", kind);
  draft.query = fmt::format("What {} the special magic {} for {} mentioned in the provided text?",
                            one ? "is" : "are all", kind, question.keys);
  draft.answer_prefix = fmt::format(" The special magic {} for {} mentioned in the provided text {}", kind,
                                    question.keys, one ? "is" : "are");
  draft.answers = question.answers;
  draft.answers_only_there = true;
}

Draft draw_needles(const NeedleTask& task, const WordLists& words, const std::vector<std::string>& essays,
                   TaskRandom random, std::size_t units) {
  NeedleTexts texts(words);
  const Question question = draw_question(task, texts, random);
  Draft draft;
  set_question(draft, task, question);
  const bool prose = task.haystack == Haystack::essay;
  const std::string_view separator = prose ? " " : "\n";
  std::size_t sentence = prose ? random.index(essays.size()) : 0;
  const auto next_essay = [&]() -> const std::string& { return essays[sentence++ % essays.size()]; };
  const auto places = needle_places(task.haystack, question.needles.size(), units, random);

  ContextText context(draft);
  std::size_t needle = 0;
  for (std::size_t unit = 0; unit <= units; ++unit) {
    for (; needle < places.size() && places[needle] == unit; ++needle) context.add(question.needles[needle], separator);
    if (unit == units) break;
    if (prose) {
      context.add(next_essay(), separator);
    } else if (task.haystack == Haystack::noise) {
      context.add(noise_sentences, separator);
    } else {
      std::string unused;
      context.add(needle_sentence(task, texts, texts.draw(task.keys, random), unused, random), separator);
    }
  }
  if (prose) {
    while (draft.filler.size() < prose_filler) draft.filler += " " + next_essay();
  } else {
    for (std::size_t i = 0; i < noise_filler; ++i)
      draft.filler += fmt::format("{}{}", i == 0 ? '\n' : ' ', noise_sentences);
  }
  return draft;
}

}  // namespace

TaskDefinition needle_task(const NeedleTask& task, const TaskFiles& files) {
  const auto words = std::make_shared<const WordLists>(read_words(files.words));
  const auto essays = std::make_shared<const std::vector<std::string>>(
      task.haystack == Haystack::essay ? read_essays(files.essays) : std::vector<std::string>{});
  return {.metric = "match_all",
          .max_new_tokens = 128,
          .fewest_units = static_cast<std::int64_t>(task.key_count * task.values_per_key),
          .draft = [task, words, essays](const TaskRandom& random, std::int64_t units) {
            return draw_needles(task, *words, *essays, random, static_cast<std::size_t>(units));
          }};
}

}  // namespace apb
