#include "unwritten.hpp"

#include <algorithm>

#include "ptx/shadow.hpp"

namespace apb::emulation {

std::vector<ByteRange> unwritten_ranges(ptx::Memory& memory, const void* data, std::size_t bytes) {
  std::vector<ByteRange> ranges;
  if (bytes == 0) return ranges;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const ptx::Allocation* const allocation = memory.find(address);
  if (allocation == nullptr || !allocation->holds(address, bytes)) {
    throw ptx::Violation(ptx::Fault::out_of_bounds, "NCCL is given memory that leaves its allocation");
  }
  const auto* const begin = allocation->written.as<std::uint8_t>() + (address - allocation->address);
  const auto* const end = begin + bytes;
  for (const auto* at = begin; (at = std::find(at, end, 0)) != end;) {
    const auto* const next = std::find_if(at, end, [](std::uint8_t written) { return written != 0; });
    ranges.push_back({static_cast<std::uint64_t>(at - begin), static_cast<std::uint64_t>(next - at)});
    at = next;
  }
  return ranges;
}

}  // namespace apb::emulation
