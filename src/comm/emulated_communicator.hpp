// Ranks as threads of one process that take turns, so that what each of them takes can be measured where there are
// fewer cores than ranks. Device memory must be host memory (the CPU device).
#pragma once

#include <functional>

#include "comm/communicator.hpp"
#include "device/clock.hpp"

namespace apb {

/// Calls `body` on a thread for each of the ranks, with that rank's communicator. One thread runs at a time: where it
/// has to wait for others, the next goes on. busy_seconds() of a rank stands still while others run. seconds() is what
/// its clock would show if all ranks ran at the same time and messages arrived as soon as they are sent: it goes with
/// busy_seconds(), and jumps ahead where the rank takes what another one sent only later. Copying counts for the rank
/// that receives. When all threads have ended, throws what the first rank to fail threw; ranks that wait for one that
/// has left end, too. `clock` tells the calling thread's time in seconds.
void run_emulated_ranks(int ranks, const std::function<void(Communicator&)>& body,
                        const std::function<double()>& clock = steady_seconds);

}  // namespace apb
