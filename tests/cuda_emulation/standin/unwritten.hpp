// Which bytes of device memory have never been written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ptx/machine.hpp"

namespace apb::emulation {

struct ByteRange {
  std::uint64_t offset;
  std::uint64_t bytes;
};

/// Of these bytes, in ascending order. Throws ptx::Violation if they leave an allocation.
std::vector<ByteRange> unwritten_ranges(ptx::Memory& memory, const void* data, std::size_t bytes);

}  // namespace apb::emulation
