// apb bench: how long prefill and decoding take.
#pragma once

#include <string>

#include "comm/communicator.hpp"
#include "error.hpp"
#include "options.hpp"

namespace apb {

/// Measures every length over the ranks of `world`, prints a table and writes a file if asked to. Errors are thrown on
/// all ranks alike.
ExitCode bench(const BenchOptions& options, const std::string& command_line, Communicator& world);

}  // namespace apb
