// Results as text, for people and for other programs.
#pragma once

#include <ostream>

#include "output/results.hpp"

namespace apb {

/// The run in brief, one line a document, and the mean time per phase.
void print_summary(std::ostream& out, const Results& results);

/// One JSON object a row, in one line each.
void print_json_lines(std::ostream& out, const Results& results);

}  // namespace apb
