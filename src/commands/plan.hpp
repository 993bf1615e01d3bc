// apb plan: who would compute and send what, known without computing anything.
#pragma once

#include "error.hpp"
#include "options.hpp"

namespace apb {

/// Prints a JSON object: blocks and anchor, what each block sees, and per rank rows, query-key pairs, operations of
/// each phase and bytes sent in the prefill.
ExitCode plan(const PlanOptions& options);

}  // namespace apb
