// Memory that the ranks of one node share.
#pragma once

#include <cstddef>

#include "device/view.hpp"

namespace apb {

class NodeMemory {
 public:
  NodeMemory() = default;
  virtual ~NodeMemory() = default;
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;

  /// This rank among those of its node, and how many they are.
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Collective over the node's ranks, the same bytes on each: the same memory for all of them, at an address of each
  /// rank's own, aligned to 64 bytes. What one writes the others may read after the next collective operation among
  /// them. Throws Error on all of them where `bytes` are more than the `available` of any.
  virtual Buffer allocate(std::size_t bytes, std::size_t available) = 0;
};

}  // namespace apb
