// apb tasks score FILE.h5 [FILE.h5 ...]: how right the answers are.
#pragma once

#include "error.hpp"
#include "options.hpp"

namespace apb {

/// Prints a table of scores to standard output, and writes them as JSON if asked for.
ExitCode tasks_score(const ScoreOptions& options);

}  // namespace apb
