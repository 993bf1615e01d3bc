// How the CPU device lays keys and values out in a slot: per KV head first the keys [capacity, head_dim], then the
// values [capacity, head_dim], row-major, in the compute type. Values behind the last token are zero up to the end of
// its tile, so that attention can work on whole tiles.
#pragma once

#include <cstddef>

#include "device/device.hpp"

namespace apb::cpu {

inline constexpr int key_tile = 32;

template <typename Element>
Element* keys_of(const Slot& slot, int head_dim, int kv_head) {
  return reinterpret_cast<Element*>(slot.data) + static_cast<std::size_t>(2 * kv_head) *
                                                     static_cast<std::size_t>(slot.capacity) *
                                                     static_cast<std::size_t>(head_dim);
}

template <typename Element>
Element* values_of(const Slot& slot, int head_dim, int kv_head) {
  return keys_of<Element>(slot, head_dim, kv_head) +
         static_cast<std::size_t>(slot.capacity) * static_cast<std::size_t>(head_dim);
}

inline std::size_t slot_bytes(int capacity, const HeadShape& shape, DataType type) {
  return 2 * static_cast<std::size_t>(shape.kv_heads) * static_cast<std::size_t>(capacity) *
         static_cast<std::size_t>(shape.head_dim) * size_of(type);
}

}  // namespace apb::cpu
