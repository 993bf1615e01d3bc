// How much memory this process may still take.
#pragma once

#include <cstddef>

namespace apb::cpu {

/// Bytes: what Linux calls available, or less where a control group (of Slurm or a container) sets a limit.
std::size_t available_host_memory();

}  // namespace apb::cpu
