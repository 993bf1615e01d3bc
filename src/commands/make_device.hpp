// The factory: the one place that knows which devices there are.
#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "device/device.hpp"
#include "options.hpp"

namespace apb {

/// Threads that a rank computes with: as asked for, else those of Slurm, else its share of the cores. Collective.
int choose_threads(int asked, Communicator& world);

/// This rank's device. Collective, since ranks on one host share its cores.
std::unique_ptr<Device> make_device(const RunOptions& options, Communicator& world);

}  // namespace apb
