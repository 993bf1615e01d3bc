// What run and bench have in common: the ranks described, their numbers brought together.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "device/device.hpp"
#include "options.hpp"
#include "output/results.hpp"
#include "phases.hpp"

namespace apb {

/// What is needed to repeat the run, the same on all ranks. Collective.
RunInfo describe_run(const RunOptions& options, const std::string& options_json, const std::string& command_line,
                     const Device& device, Communicator& world);

/// Prints how many documents are answered side by side, if several, and one line for each run of ranks that are placed
/// alike.
void print_placement(const RunInfo& info, int groups = 1);

/// Throws Error when --blocks cannot be shared out among the ranks.
void check_blocks(const MethodOptions& method, int ranks);

/// Throws Error when the method cannot share the heads out among the ranks.
void check_heads(const MethodOptions& method, const HeadShape& shape, int ranks);

/// On or off: automatic is on where the ranks span hosts, since the network inside one is too fast to be worth hiding.
Overlap choose_overlap(Overlap asked, Communicator& world);

/// [ranks_used] on rank 0.
std::vector<double> gather_seconds(Communicator& world, double own, int ranks_used);

/// [ranks_used, phases] on rank 0.
std::vector<double> gather_phases(Communicator& world, const PhaseSeconds& own, int ranks_used);

}  // namespace apb
