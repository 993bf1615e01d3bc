#include "tasks/infinitebench.hpp"

#include <fmt/format.h>

namespace apb {
namespace {

constexpr std::string_view noise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
constexpr int noise_filler = 3;          // lines, more than one unit
constexpr std::size_t key_filler = 512;  // characters of a last value, more than one key with its value
constexpr std::size_t key_digits = 5;

std::string random_digits(TaskRandom& random) {
  std::string digits;
  for (std::size_t i = 0; i < key_digits; ++i) digits += static_cast<char>('0' + random.below(10));
  return digits;
}

/// Five digits of which some are said again at once: ten in all.
std::string repeating_digits(TaskRandom& random) {
  std::string digits = random_digits(random);
  for (std::size_t i = 0; i < key_digits; ++i) {
    const std::size_t place = random.index(digits.size());
    digits.insert(place, 1, digits[place]);
  }
  return digits;
}

/// A number hidden in one of the places between `units` lines of noise.
Draft draw_number(const std::string& called, const std::string& instruction, const std::string& digits,
                  TaskRandom& random, std::int64_t units) {
  const std::string needle = fmt::format("The {} is {}. Remember it. {} is the {}.\n", called, digits, digits, called);
  const auto place = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(units) + 1));
  Draft draft;
  draft.before = instruction;
  for (std::int64_t line = 0; line <= units; ++line) {
    if (line == place) {
      draft.evidence.emplace_back(draft.before.size(), draft.before.size() + needle.size() - 1);
      draft.before += needle;
    }
    if (line < units) draft.before += noise;
  }
  for (int line = 0; line < noise_filler; ++line) draft.filler += noise;
  draft.query = fmt::format("What is the {}?", called);
  draft.answer_prefix = fmt::format(" The {} is", called);
  draft.answers = {digits};
  draft.answers_only_there = true;
  return draft;
}

/// A JSON object of `units` keys and one more, whose value is as long as the length asks for.
Draft draw_key_values(TaskRandom& random, std::int64_t units) {
  const auto asked = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(units)));
  Draft draft;
  draft.before = "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{";
  for (std::int64_t number = 0; number < units; ++number) {
    const std::string key = random_uuid(random);
    const std::string value = random_uuid(random);
    const std::string pair = fmt::format("\"{}\": \"{}\"", key, value);
    if (number == asked) {
      draft.evidence.emplace_back(draft.before.size(), draft.before.size() + pair.size());
      draft.query = fmt::format("Key: \"{}\"", key);
      draft.answers = {value};
    }
    draft.before += pair + ", ";
  }
  draft.before += fmt::format("\"{}\": \"", random_uuid(random));
  while (draft.filler.size() < key_filler) draft.filler += random_uuid(random) + "-";
  draft.after = "\"}";
  draft.answer_prefix = "\nThe value associated with the specified key is:";
  draft.answers_only_there = true;
  return draft;
}

}  // namespace

const std::vector<std::string>& infinitebench_task_names() {
  static const std::vector<std::string> names = {"passkey", "number_string", "kv_retrieval"};
  return names;
}

TaskDefinition infinitebench_task(const std::string& name, const TaskFiles& /*files*/, std::int64_t /*length*/) {
  if (name == "kv_retrieval") {
    return {.metric = "word", .max_new_tokens = 50, .draft = [](TaskRandom random, std::int64_t units) {
              return draw_key_values(random, units);
            }};
  }
  if (name == "passkey") {
    return {.metric = "first_integer", .max_new_tokens = 6, .draft = [](TaskRandom random, std::int64_t units) {
              const std::string digits = random_digits(random);
              return draw_number("pass key",
                                 "There is an important info hidden inside a lot of irrelevant text. Find it and "
                                 "memorize them. I will quiz you about the important information there.\n\n",
                                 digits, random, units);
            }};
  }
  return {.metric = "first_integer", .max_new_tokens = 12, .draft = [](TaskRandom random, std::int64_t units) {
            const std::string digits = repeating_digits(random);
            return draw_number("sequence of digits",
                               "There is an important info hidden inside a lot of irrelevant text. Find it. I will "
                               "quiz you about the important information there.\n\n",
                               digits, random, units);
          }};
}

}  // namespace apb
