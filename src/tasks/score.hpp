// The scores of a results file, by task and length.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "output/results.hpp"
#include "tasks/interval.hpp"

namespace apb {

/// What rows really used (documents/* of the results file).
struct UsedMethod {
  std::set<std::string> methods;
  std::set<int> blocks;
  std::set<int> anchor_lengths;
  std::set<int> passing_lengths;
};

/// The rows of one task at one length.
struct TaskScore {
  std::string suite;        // empty if the rows do not say
  std::string task;         // empty if the rows do not say
  std::int64_t length = 0;  // prompt tokens asked for; 0 if the rows do not say
  std::string metric;
  Estimate score;
  std::vector<std::pair<std::string, double>> scores;  // id and score of each row, failed rows included
  UsedMethod used;                                     // by the rows that did not fail
  double prefill_seconds = 0;                          // means over the prefills; 0 if there were none
  double ttft_seconds = 0;
};

/// The tasks of one suite at one length.
struct AverageScore {
  std::string suite;
  std::int64_t length = 0;
  std::vector<std::string> tasks;
  Estimate score;
};

struct FileScores {
  std::string file;
  RunInfo info;
  std::vector<TaskScore> tasks;  // by suite as they come, length ascending, task as they come
  std::vector<AverageScore> averages;
  UsedMethod used;
  std::vector<std::pair<std::string, std::string>> failed;  // id and message of the rows that failed: they score 0
};

/// Scores every row by its metadata: `answers` (texts), `metric` (match_all if missing), `suite`, `task` and `length`.
/// Fails where there are no rows, or a row's metadata cannot be used; the message names `file` and the row's id.
FileScores score_results(const std::string& file, const Results& results);

}  // namespace apb
