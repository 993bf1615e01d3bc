// Scores for people, as a table, and for programs, as JSON.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "tasks/score.hpp"

namespace apb {

/// Scores in percent with their intervals: a row for each task and length, and for the average of a suite's tasks; a
/// column for each file, headed by what it has other than the rest. Then what is to be known: failed rows, averages
/// over other tasks.
void print_scores(std::ostream& out, const std::vector<FileScores>& files);

/// The same as JSON text, with scores from 0 to 1 in full precision, each row's score, and times.
std::string scores_as_json(const std::vector<FileScores>& files);

}  // namespace apb
