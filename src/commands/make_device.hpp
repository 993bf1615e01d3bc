// The factory: the one place that knows which devices there are.
#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "device/device.hpp"
#include "options.hpp"

namespace apb {

/// Threads that a rank computes with: as asked for, else those of Slurm, else its share of the cores. Collective.
int choose_threads(int asked, Communicator& world);

/// What a rank computes on, and what moves its memory to the others.
struct Backend {
  std::unique_ptr<Device> device{};
  std::unique_ptr<Communicator> own_communicator{};  // none where the memory is the host's

  Communicator& communicator(Communicator& group) const { return own_communicator ? *own_communicator : group; }
};

/// This rank's device, of the same kind on all ranks, with a communicator for the ranks of its group. Collective over
/// `world`, the ranks that a process begins with; both must outlive the backend. With --device cuda throws Error that
/// says why there is no GPU to use; `auto` takes the CPU then.
Backend make_backend(const RunOptions& options, Communicator& world, Communicator& group);

}  // namespace apb
