// What the processor can do at most: the ceiling that measurements are held against.
#pragma once

#include <cstddef>

#include "device/device.hpp"

namespace apb::cpu {

/// Peaks of `threads` threads. Operations: tiles multiplied (AMX) or else vectors multiplied and added, in registers,
/// by the widest instructions that the processor has for `type`. Reading: passes over a buffer of `bytes`.
Peaks measure_peaks(int threads, DataType type, std::size_t bytes);

}  // namespace apb::cpu
