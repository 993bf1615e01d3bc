// How much memory this process has in use, as the operating system counts it.
#pragma once

#include <cstdint>

namespace apb {

/// Bytes resident now; 0 where that is unknown.
std::int64_t resident_memory();

/// The most bytes that were resident since reset_peak_resident_memory, or since the process began where that has no
/// effect; 0 where that is unknown.
std::int64_t peak_resident_memory();
void reset_peak_resident_memory();

}  // namespace apb
