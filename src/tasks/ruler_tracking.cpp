// vt: a chain of assignments hidden in noise.
#include <algorithm>
#include <set>

#include "error.hpp"
#include "tasks/ruler.hpp"

namespace apb {
namespace {

constexpr std::size_t hops = 4;
constexpr std::size_t variable_length = 5;          // letters
constexpr std::size_t example_variable_length = 3;  // letters
constexpr std::size_t example_noise = 15;           // times all noise sentences
constexpr std::size_t filler_noise = 8;

struct Chain {
  std::vector<std::string> variables;
  std::string value;
};

Chain draw_chain(std::size_t letters, TaskRandom& random) {
  Chain chain;
  std::set<std::string> drawn;
  while (chain.variables.size() < hops + 1) {
    std::string variable;
    for (std::size_t i = 0; i < letters; ++i) variable += static_cast<char>('A' + random.below(26));
    if (drawn.insert(variable).second) chain.variables.push_back(std::move(variable));
  }
  chain.value = std::to_string(10'000 + random.below(90'000));
  return chain;
}

std::string assignment(const Chain& chain, std::size_t number) {
  if (number == 0) return fmt::format("VAR {} = {}", chain.variables[0], chain.value);
  return fmt::format("VAR {} = VAR {}", chain.variables[number], chain.variables[number - 1]);
}

/// Instruction and noise with the chain's assignments in their order; where they stand goes to `evidence`.
std::string hide(const Chain& chain, std::size_t noise, TaskRandom& random, std::vector<TextRange>* evidence) {
  std::string text = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
  std::vector<std::size_t> places = random.sample(noise, chain.variables.size());
  std::sort(places.begin(), places.end());
  std::size_t next = 0;
  for (std::size_t sentence = 0; sentence < noise; ++sentence) {
    if (next < places.size() && places[next] == sentence) {
      const std::string hidden = assignment(chain, next++);
      if (evidence != nullptr) evidence->emplace_back(text.size(), text.size() + hidden.size());
      text += hidden + " ";
    }
    text += noise_sentences;
    if (sentence + 1 < noise) text += "\n ";
  }
  return text;
}

std::string question_about(const Chain& chain) {
  return fmt::format("Question: Find all variables that are assigned the value {} in the text above.", chain.value);
}

// "assgined" is how it was published.
std::string answer_prefix(const Chain& chain) {
  return fmt::format(
      " Answer: According to the chain(s) of variable assignment in the text above, {} variables are assgined the "
      "value "
      "{}, they are:",
      chain.variables.size(), chain.value);
}

Draft draw_tracking(TaskRandom random, std::size_t units) {
  const Chain chain = draw_chain(variable_length, random);
  Chain example = draw_chain(example_variable_length, random);
  while (example.value == chain.value) example = draw_chain(example_variable_length, random);
  Draft draft;
  draft.before = fmt::format("{}\n{}{} {}\n\n", hide(example, example_noise, random, nullptr), question_about(example),
                             answer_prefix(example), fmt::join(example.variables, " "));
  const std::size_t begin = draft.before.size();
  draft.before += hide(chain, units, random, &draft.evidence);
  for (auto& [first, second] : draft.evidence) {
    first += begin;
    second += begin;
  }
  for (std::size_t i = 0; i < filler_noise; ++i) draft.filler += fmt::format("\n {}", noise_sentences);
  draft.query = question_about(chain);
  draft.answer_prefix = answer_prefix(chain);
  draft.answers = chain.variables;
  draft.answers_only_there = true;
  return draft;
}

}  // namespace

TaskDefinition variable_tracking_task() {
  return {.metric = "match_all",
          .max_new_tokens = 30,
          .fewest_units = hops + 1,
          .draft = [](const TaskRandom& random, std::int64_t units) {
            return draw_tracking(random, static_cast<std::size_t>(units));
          }};
}

}  // namespace apb
