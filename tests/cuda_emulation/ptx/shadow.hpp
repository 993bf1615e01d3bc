// Shadow state of memory, and the judge's happens-before rules.
//
// A stamp says who last wrote (or read) a cell, and when: [launch 13 bits | block 20 | time 20 | thread 11]. Time is
// the block's: every barrier and __syncwarp ends a span of time for the warps that take part. Cells are as small as the
// smallest access of the kernel to the space.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace apb::ptx {

using Stamp = std::uint64_t;

constexpr int thread_bits = 11, time_bits = 20, block_bits = 20, launch_bits = 13;
constexpr Stamp thread_mask = (1U << thread_bits) - 1;
constexpr Stamp time_mask = (1U << time_bits) - 1;
constexpr Stamp block_mask = (1U << block_bits) - 1;
constexpr int time_shift = thread_bits, block_shift = thread_bits + time_bits;
constexpr int launch_shift = block_shift + block_bits;
constexpr std::uint64_t max_launches = 1U << launch_bits;
/// Writers: the bit of an atomic access. Readers: several lanes of warp w are 1024 + w; several warps are many_warps.
constexpr Stamp atomic_bit = 1024;
constexpr unsigned many_lanes = 1024;
constexpr unsigned many_warps = thread_mask;
constexpr Stamp many_blocks = block_mask;
/// The time of a cp.async write that has not been waited for.
constexpr Stamp pending_time = time_mask;

/// Zeroed memory from the system, which is only there once touched.
class LazyMemory {
 public:
  LazyMemory() = default;
  explicit LazyMemory(std::size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
  }
  LazyMemory(LazyMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  LazyMemory& operator=(LazyMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  LazyMemory(const LazyMemory&) = delete;
  LazyMemory& operator=(const LazyMemory&) = delete;
  ~LazyMemory() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  /// All bytes are zero again.
  void clear() {
    if (data_ != nullptr) madvise(data_, bytes_, MADV_DONTNEED);
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::byte* bytes_at(std::size_t offset) const { return as<std::byte>() + offset; }
  std::size_t size() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Last writers and readers of the cells of a piece of memory.
struct Cells {
  LazyMemory writers, readers;  // Stamp for each cell
};

/// A piece of global memory.
struct Allocation {
  std::uint64_t address = 0;
  std::size_t bytes = 0;
  LazyMemory data;     // with a gap on both sides
  LazyMemory written;  // one byte for each byte
  Cells cells;

  bool holds(std::uint64_t at, std::size_t count) const { return at >= address && at + count <= address + bytes; }
};

}  // namespace apb::ptx
