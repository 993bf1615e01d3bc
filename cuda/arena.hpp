// The device's memory: few allocations of CUDA's, handed out in pieces.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

#include "cuda/handles.hpp"
#include "device/view.hpp"

namespace apb::cuda {

/// Pieces start at multiples of 256 bytes. CUDA is asked for more only when no piece is large enough; then, too,
/// allocations that are free as a whole are given back. Buffers keep the arena alive.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  /// Throws Error when there is not enough memory.
  Buffer allocate(std::size_t bytes);
  /// Makes room for buffers of so many bytes together, so that they come out of one allocation.
  void reserve(std::size_t bytes);
  /// What CUDA could still give, and what is free here.
  std::size_t available() const;

 private:
  struct Region {
    DeviceMemory memory;
    std::size_t bytes = 0;
    std::map<std::size_t, std::size_t> free;  // offset to bytes; no two adjacent
  };

  /// The smallest free piece that is large enough, as region and offset; at the end if there is none.
  std::pair<std::vector<Region>::iterator, std::size_t> find(std::size_t bytes);
  void grow(std::size_t bytes, std::size_t at_least);
  void release(std::byte* data, std::size_t bytes);
  void give_back_free_regions();

  std::vector<Region> regions_;
};

}  // namespace apb::cuda
