// The KV cache of one rank: a slot per layer and region (own block, query) in one buffer.
#pragma once

#include <span>
#include <vector>

#include "device/device.hpp"

namespace apb {

class KeyValueStore {
 public:
  /// `capacities` in tokens per region, rounded up to the device's tile.
  KeyValueStore(Device& device, const HeadShape& shape, int layers, std::span<const int> capacities);

  Slot slot(int layer, int region) const;
  /// A layer's memory as one row of 4-byte elements, and a region's slot in a copy of one that begins at `data`.
  View layer(int layer) const;
  Slot slot_in(std::byte* data, int region) const;
  std::size_t bytes() const { return buffer_.bytes(); }

 private:
  std::vector<int> capacities_;
  std::vector<std::size_t> offsets_;  // bytes within a layer
  std::size_t layer_bytes_ = 0;
  Buffer buffer_;
};

/// `tokens` rounded up to the device's tile.
int slot_capacity(const Device& device, std::int64_t tokens);

}  // namespace apb
