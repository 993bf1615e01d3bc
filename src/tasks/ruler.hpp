// The thirteen tasks of RULER (Hsieh et al., 2024, arXiv 2404.06654), by its public definitions and in its
// configuration. Prompts and answer prefixes are worded as published, since scores depend on them; the code is our own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tasks/sources.hpp"
#include "tasks/task.hpp"

namespace apb {

/// Names in the order of the paper; the last two need question files.
const std::vector<std::string>& ruler_task_names();

/// The task of this name, which is one of ruler_task_names, for prompts of `length` tokens. Reads the files that it
/// needs; fails with what is missing.
TaskDefinition ruler_task(const std::string& name, const TaskFiles& files, std::int64_t length);

/// Sentences that some tasks repeat as haystack.
extern const std::string_view noise_sentences;

/// Needles in a haystack.
enum class Haystack { noise, essay, needles };
enum class NeedleText { words, numbers, uuids };
struct NeedleTask {
  Haystack haystack = Haystack::essay;
  NeedleText keys = NeedleText::words;
  NeedleText values = NeedleText::numbers;
  std::size_t key_count = 1;
  std::size_t values_per_key = 1;
  std::size_t queried_keys = 1;
};
TaskDefinition needle_task(const NeedleTask& task, const TaskFiles& files);

/// One chain of four assignments that have to be followed, after an example.
TaskDefinition variable_tracking_task();

/// The ten words that a numbered list repeats most often, after an example.
TaskDefinition common_words_task(const TaskFiles& files, std::int64_t length);

/// The three most frequent words of a text in code, whose frequencies follow a zeta distribution.
TaskDefinition frequent_words_task(std::int64_t length);

/// A question about one or two of many documents.
TaskDefinition question_task(std::shared_ptr<const QuestionSet> questions);

}  // namespace apb
