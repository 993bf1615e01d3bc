// Global memory: allocations with a gap on both sides, and their shadow state.
#include <fmt/format.h>

#include <cstring>

#include "ptx/machine.hpp"
#include "ptx/shadow.hpp"

namespace apb::ptx {
namespace {

constexpr std::size_t gap = std::size_t{1} << 20;  // so that an overrun does not reach the next allocation

std::uint64_t address_of(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

}  // namespace

Memory::Memory() = default;
Memory::~Memory() = default;

void* Memory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  auto allocation = std::make_unique<Allocation>();
  allocation->bytes = bytes;
  allocation->data = LazyMemory(bytes + 2 * gap);
  allocation->address = address_of(allocation->data.bytes_at(gap));
  allocation->written = LazyMemory(bytes);
  allocation->cells = {LazyMemory(bytes * sizeof(Stamp)), LazyMemory(bytes * sizeof(Stamp))};
  const auto address = allocation->address;
  allocations_[address] = std::move(allocation);
  allocated_bytes_ += bytes;
  return reinterpret_cast<void*>(address);
}

bool Memory::release(void* pointer) {
  const auto found = allocations_.find(address_of(pointer));
  if (found == allocations_.end()) return false;
  allocated_bytes_ -= found->second->bytes;
  allocations_.erase(found);
  return true;
}

Allocation* Memory::find(std::uint64_t address) const {
  auto found = allocations_.upper_bound(address);
  // An address shortly before an allocation belongs to its gap.
  if (found != allocations_.end() && found->first - address < gap) return found->second.get();
  if (found == allocations_.begin()) return nullptr;
  --found;
  Allocation* allocation = found->second.get();
  return address < allocation->address + allocation->bytes + gap ? allocation : nullptr;
}

bool Memory::contains(const void* pointer) const {
  const Allocation* found = find(address_of(pointer));
  return found != nullptr && found->holds(address_of(pointer), 1);
}

Allocation& Memory::holding(const void* pointer, std::size_t bytes) const {
  Allocation* found = find(address_of(pointer));
  if (found != nullptr && found->holds(address_of(pointer), bytes)) return *found;
  std::string where = "which no allocation of device memory holds";
  if (found != nullptr) {
    where = fmt::format("{} bytes past the start of an allocation of {} bytes",
                        static_cast<std::int64_t>(address_of(pointer) - found->address), found->bytes);
  }
  throw Violation(Fault::out_of_bounds,
                  fmt::format("the host accesses {} bytes at {:#x}, {}", bytes, address_of(pointer), where));
}

void Memory::mark_written(const void* pointer, std::size_t bytes) {
  if (bytes == 0) return;
  const Allocation& allocation = holding(pointer, bytes);
  std::memset(allocation.written.bytes_at(address_of(pointer) - allocation.address), 1, bytes);
}

void Memory::mark_unwritten(const void* pointer, std::size_t bytes) {
  if (bytes == 0) return;
  const Allocation& allocation = holding(pointer, bytes);
  std::memset(allocation.written.bytes_at(address_of(pointer) - allocation.address), 0, bytes);
}

void Memory::mark_copied(const void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  const Allocation& target = holding(to, bytes);
  const Allocation& source = holding(from, bytes);
  std::memmove(target.written.bytes_at(address_of(to) - target.address),
               source.written.bytes_at(address_of(from) - source.address), bytes);
}

void Memory::check_readable(const void* pointer, std::size_t bytes) const {
  if (bytes == 0) return;
  const Allocation& allocation = holding(pointer, bytes);
  const auto offset = address_of(pointer) - allocation.address;
  const void* unwritten = std::memchr(allocation.written.bytes_at(offset), 0, bytes);
  if (unwritten == nullptr) return;
  const auto byte = static_cast<const std::byte*>(unwritten) - allocation.written.bytes_at(0);
  throw Violation(Fault::uninitialised_memory,
                  fmt::format("the host reads byte {} of an allocation of {} bytes of device memory, which was never "
                              "written",
                              byte, allocation.bytes));
}

std::uint64_t Memory::next_launch() {
  if (++launches_ == max_launches) {
    for (const auto& [address, allocation] : allocations_) {
      allocation->cells.writers.clear();
      allocation->cells.readers.clear();
    }
    launches_ = 1;
  }
  return launches_;
}

}  // namespace apb::ptx
