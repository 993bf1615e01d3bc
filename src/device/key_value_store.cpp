#include "device/key_value_store.hpp"

namespace apb {

int slot_capacity(const Device& device, std::int64_t tokens) {
  return static_cast<int>((tokens + device.tile() - 1) / device.tile()) * device.tile();
}

KeyValueStore::KeyValueStore(Device& device, const HeadShape& shape, int layers, std::span<const int> capacities) {
  for (const int tokens : capacities) {
    capacities_.push_back(slot_capacity(device, tokens));
    offsets_.push_back(layer_bytes_);
    layer_bytes_ += device.slot_bytes(capacities_.back(), shape);
  }
  buffer_ = device.allocate(layer_bytes_ * static_cast<std::size_t>(layers));
}

Slot KeyValueStore::slot(int layer, int region) const {
  return slot_in(buffer_.data() + static_cast<std::size_t>(layer) * layer_bytes_, region);
}

View KeyValueStore::layer(int layer) const {
  return buffer_.view(DataType::i32, 1, static_cast<std::int64_t>(layer_bytes_ / size_of(DataType::i32)),
                      static_cast<std::size_t>(layer) * layer_bytes_);
}

Slot KeyValueStore::slot_in(std::byte* data, int region) const {
  const auto index = static_cast<std::size_t>(region);
  return {data + offsets_.at(index), capacities_.at(index)};
}

}  // namespace apb
