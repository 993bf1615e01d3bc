// apb tasks generate SUITE: samples with known answers, as input of apb run.
#pragma once

#include "comm/communicator.hpp"
#include "error.hpp"
#include "options.hpp"

namespace apb {

/// Collective. Rank 0 makes the file; all ranks throw what goes wrong there.
ExitCode tasks_generate(const GenerateOptions& options, Communicator& world);

}  // namespace apb
