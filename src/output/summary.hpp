// Results as text, for people and for other programs.
#pragma once

#include <ostream>
#include <vector>

#include "output/results.hpp"

namespace apb {

/// What --check-dense found over several answers.
struct DriftSummary {
  int answers = 0;
  int equal = 0;
  float largest = 0;

  DriftSummary() = default;
  /// Of the rows that were checked.
  explicit DriftSummary(const std::vector<ResultRow>& rows);

  void add(const Drift& drift);

  /// One line; none if nothing was checked.
  void print(std::ostream& out) const;
};

/// The run in brief, one line a document, and the mean time per phase.
void print_summary(std::ostream& out, const Results& results);

/// One JSON object a row, in one line each.
void print_json_lines(std::ostream& out, const Results& results);

}  // namespace apb
