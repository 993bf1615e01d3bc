#include "cuda/arena.hpp"

#include <algorithm>
#include <utility>

#include "error.hpp"

namespace apb::cuda {
namespace {

constexpr std::size_t alignment = 256;
constexpr std::size_t smallest_region = std::size_t{64} << 20U;
constexpr std::size_t rounding_slack = std::size_t{1} << 20U;  // what the alignment of a document's buffers may take

std::size_t aligned(std::size_t bytes) { return (std::max<std::size_t>(bytes, 1) + alignment - 1) & ~(alignment - 1); }

DeviceMemory try_device_memory(std::size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // or the next launch would report it
    return nullptr;
  }
  check(status, "cudaMalloc");
  return DeviceMemory(static_cast<std::byte*>(memory));
}

}  // namespace

Buffer Arena::allocate(std::size_t bytes) {
  const std::size_t size = aligned(bytes);
  auto [region, offset] = find(size);
  if (region == regions_.end()) {
    grow(std::max(size, smallest_region), size);
    std::tie(region, offset) = find(size);
  }
  const std::size_t left = region->free.at(offset) - size;
  region->free.erase(offset);
  if (left > 0) region->free[offset + size] = left;
  return {region->memory.get() + offset, bytes, Space::device,
          [arena = shared_from_this(), size](std::byte* data) { arena->release(data, size); }};
}

void Arena::reserve(std::size_t bytes) {
  const std::size_t size = aligned(bytes + rounding_slack);
  if (find(size).first == regions_.end()) grow(size, size);
}

std::size_t Arena::available() const {
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  for (const Region& region : regions_) {
    for (const auto& [offset, bytes] : region.free) free += bytes;
  }
  return free;
}

std::pair<std::vector<Arena::Region>::iterator, std::size_t> Arena::find(std::size_t bytes) {
  auto best = std::pair(regions_.end(), std::size_t{0});
  std::size_t smallest = 0;
  for (auto region = regions_.begin(); region != regions_.end(); ++region) {
    for (const auto& [offset, size] : region->free) {
      if (size < bytes || (best.first != regions_.end() && size >= smallest)) continue;
      best = {region, offset};
      smallest = size;
    }
  }
  return best;
}

/// Takes `bytes` from CUDA, or if there are not so many, `at_least`.
void Arena::grow(std::size_t bytes, std::size_t at_least) {
  give_back_free_regions();
  DeviceMemory memory = try_device_memory(bytes);
  if (!memory && at_least < bytes) memory = try_device_memory(bytes = at_least);
  if (!memory) {
    fail("out of GPU memory: {:.2f} GiB could not be allocated; use more ranks or a shorter document",
         static_cast<double>(at_least) / 0x1p30);
  }
  regions_.push_back({.memory = std::move(memory), .bytes = bytes, .free = {{0, bytes}}});
}

void Arena::release(std::byte* data, std::size_t bytes) {
  const auto region = std::find_if(regions_.begin(), regions_.end(), [&](const Region& candidate) {
    return data >= candidate.memory.get() && data < candidate.memory.get() + candidate.bytes;
  });
  auto piece = region->free.emplace(static_cast<std::size_t>(data - region->memory.get()), bytes).first;
  if (const auto next = std::next(piece); next != region->free.end() && piece->first + piece->second == next->first) {
    piece->second += next->second;
    region->free.erase(next);
  }
  if (piece == region->free.begin()) return;
  if (const auto before = std::prev(piece); before->first + before->second == piece->first) {
    before->second += piece->second;
    region->free.erase(piece);
  }
}

void Arena::give_back_free_regions() {
  std::erase_if(regions_, [](const Region& region) {
    const auto whole = region.free.find(0);
    return whole != region.free.end() && whole->second == region.bytes;
  });
}

}  // namespace apb::cuda
