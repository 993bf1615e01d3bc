// Samples of an exact length in tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "input/prompt_template.hpp"
#include "model/tokenizer.hpp"
#include "tasks/task.hpp"

namespace apb {

/// A sample as it is asked.
struct Sample {
  std::string context;
  std::string query;
  std::string answer_prefix;
  std::vector<std::string> answers;
  std::vector<std::pair<std::int64_t, std::int64_t>> evidence;  // positions [first, second) of Prompt::context
};

/// Counts tokens as a run would: with the model's tokenizer and its prompt template.
class Fitter {
 public:
  Fitter(const Tokenizer& tokenizer, TemplateKind kind) : tokenizer_(tokenizer), template_(kind) {}

  /// Tokens of the whole prompt, with the first `filler_bytes` bytes of the draft's filler.
  std::int64_t length(const Draft& draft, std::size_t filler_bytes) const;

  /// A sample of exactly `length` tokens: as many units as go in, then filler. Nothing where no beginning of the filler
  /// makes it exact, or where the context holds an answer that it must not hold: then draw again. Fails where the task
  /// has no more units. The draft of the fewest units must not be longer than `length`.
  std::optional<Sample> fit(const TaskDefinition& task, const TaskRandom& random, std::int64_t length) const;

 private:
  std::int64_t most_units_within(const TaskDefinition& task, const TaskRandom& random, std::int64_t length) const;
  std::optional<std::size_t> exact_filler(const Draft& draft, std::int64_t length) const;
  Sample finished(const Draft& draft, std::size_t filler_bytes) const;

  const Tokenizer& tokenizer_;
  TemplateKind template_;
};

}  // namespace apb
