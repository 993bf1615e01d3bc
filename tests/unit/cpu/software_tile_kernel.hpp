// The AMX kernel on software tiles.
#pragma once

#include <span>

#include "cpu/attention/kernel.hpp"

namespace apb {

std::span<const cpu::AttentionKernel> software_tile_kernels();

}  // namespace apb
