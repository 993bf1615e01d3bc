// Results as text, for people and for other programs.
#pragma once

#include <optional>
#include <ostream>

#include "output/results.hpp"

namespace apb {

/// What --check-dense found over several answers.
class DriftSummary {
 public:
  /// Nothing where the row was not checked.
  void add(const std::optional<Drift>& drift);

  /// One line; none if nothing was checked.
  void print(std::ostream& out) const;

 private:
  int answers_ = 0;
  int equal_ = 0;
  float largest_ = 0;
};

/// The run in brief, one line a document, and the mean time per phase.
void print_summary(std::ostream& out, const Results& results);

/// One JSON object a row, in one line each.
void print_json_lines(std::ostream& out, const Results& results);

}  // namespace apb
