#include "context/exchange.hpp"

namespace apb {

Exchange::Exchange(Device& device, Communicator& communicator, const HeadShape& shape, const Partition& partition)
    : device_(device),
      communicator_(communicator),
      partition_(partition),
      anchor_bytes_(is_sharded() ? device.slot_bytes(partition.anchor_capacity, shape) : 0),
      passing_bytes_(device.slot_bytes(partition.passing_capacity, shape)),
      part_bytes_(anchor_bytes_ + static_cast<std::size_t>(partition.blocks_per_rank()) * passing_bytes_),
      parts_(device.allocate(part_bytes_ * static_cast<std::size_t>(partition.ranks))) {
  const bool sharded = is_sharded();
  if (!sharded) replicated_anchor_ = device.allocate(device.slot_bytes(partition.anchor_capacity, shape));

  const auto anchor_slot_of = [&](int rank) {
    std::byte* data =
        sharded ? parts_.data() + static_cast<std::size_t>(rank) * part_bytes_ : replicated_anchor_.data();
    return Slot{data, partition.anchor_capacity};
  };
  anchor_slot_ = anchor_slot_of(communicator.rank());
  anchor_slices_ = sharded ? partition.ranks_used() : 1;
  for (int rank = 0; rank < anchor_slices_; ++rank) {
    const int length = sharded ? partition.anchor_slice(rank).length() : partition.anchor_length;
    visible_.push_back({anchor_slot_of(rank), length});
  }
  for (const Block& block : partition.blocks) visible_.push_back({slot_of(block.rank, block.index), block.passing});
}

Slot Exchange::slot_of(int rank, int block_index) const {
  std::byte* data = parts_.data() + static_cast<std::size_t>(rank) * part_bytes_ + anchor_bytes_ +
                    static_cast<std::size_t>(block_index) * passing_bytes_;
  return {data, partition_.passing_capacity};
}

Slot Exchange::passing_slot(int block) const {
  const Block& own = partition_.blocks.at(static_cast<std::size_t>(block));
  return slot_of(own.rank, own.index);
}

std::span<const SlotRange> Exchange::visible_to_block(int block) const {
  if (block == 0) return {};
  return std::span(visible_).first(static_cast<std::size_t>(anchor_slices_) + static_cast<std::size_t>(block));
}

std::span<const SlotRange> Exchange::visible_to_anchor() const {
  return std::span(visible_).first(is_sharded() ? static_cast<std::size_t>(communicator_.rank()) : 0);
}

std::shared_ptr<Transfer> Exchange::start() {
  if (!partition_.has_exchange()) return nullptr;
  const auto columns = static_cast<std::int64_t>(part_bytes_ / size_of(DataType::i32));
  return communicator_.start_all_gather(device_, parts_.view(DataType::i32, partition_.ranks, columns));
}

}  // namespace apb
