// Memory of the host: how much there is, and taking some.
#pragma once

#include <cstddef>

#include "device/view.hpp"

namespace apb::cpu {

/// Bytes: what Linux calls available, or less where a control group (of Slurm or a container) sets a limit.
std::size_t available_host_memory();

/// Aligned to a cache line at least; in large pages where it is large. Throws Error when there is not enough.
Buffer allocate_host_memory(std::size_t bytes);

}  // namespace apb::cpu
