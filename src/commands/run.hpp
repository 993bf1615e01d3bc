// apb run: the program's main path.
#pragma once

#include <string>

#include "comm/mpi_communicator.hpp"
#include "error.hpp"
#include "options.hpp"

namespace apb {

/// Answers all documents over the ranks of `world`. Errors that concern the whole run are thrown on all ranks alike.
ExitCode run(const RunOptions& asked, const std::string& command_line, MpiCommunicator& world);

}  // namespace apb
