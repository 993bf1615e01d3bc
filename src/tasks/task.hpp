// What a benchmark's tasks are made of.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tasks/random.hpp"

namespace apb {

/// Bytes [first, second) of a text.
using TextRange = std::pair<std::size_t, std::size_t>;

/// A sample whose length is not yet exact: its context is `before`, any beginning of `filler`, and `after`.
struct Draft {
  std::string before;
  std::string filler;
  std::string after;
  std::string query;
  std::string answer_prefix;
  std::vector<std::string> answers;
  std::vector<TextRange> evidence;  // of before: where the answers' needles stand
  bool answers_only_there = false;  // the context must not hold an answer anywhere else
};

/// One task: how to draw a sample of it from `units` pieces of haystack (sentences, words, documents: what suits it).
/// The same random numbers and units give the same draft. More units make it longer.
struct TaskDefinition {
  std::string metric{};    // how apb tasks score judges an answer
  int max_new_tokens = 0;  // tokens that the benchmark lets a model answer with
  std::int64_t fewest_units = 1;
  std::int64_t most_units = std::int64_t{1} << 40U;
  std::string what_runs_out{};  // for people: what has no more than most_units
  std::function<Draft(const TaskRandom& random, std::int64_t units)> draft{};
};

}  // namespace apb
