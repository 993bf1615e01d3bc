#include "context/block_rows.hpp"

#include <algorithm>

namespace apb {

BlockRows::BlockRows(Device& device, const ModelConfig& config, const Partition& partition, int rank) {
  const AnchorSlice slice = partition.anchor_slice(rank);
  const auto own = partition.blocks_of(rank);
  std::int64_t rows = slice.length();
  for (const int number : own) rows += partition.blocks[static_cast<std::size_t>(number)].length();
  const int query_columns = config.head_shape().query_columns();
  const DataType type = device.compute_type();
  hidden_ = device.allocate(view_bytes(DataType::f32, rows, config.hidden));
  queries_ = device.allocate(view_bytes(type, rows, query_columns));

  std::int64_t taken = 0;
  const auto take = [&](std::int64_t count, std::int64_t first_position) {
    const Rows taken_rows{.hidden = hidden_.view(DataType::f32, rows, config.hidden).row_range(taken, count),
                          .query = queries_.view(type, rows, query_columns).row_range(taken, count),
                          .first_position = first_position};
    taken += count;
    return taken_rows;
  };
  anchor_ = take(slice.length(), slice.begin);
  for (const int number : own) {
    const Block& block = partition.blocks[static_cast<std::size_t>(number)];
    blocks_.push_back({number, take(block.length(), block.begin)});
  }
}

std::vector<int> BlockRows::lengths() const {
  std::vector<int> lengths;
  for (const OwnBlock& own : blocks_) lengths.push_back(static_cast<int>(own.rows.count()));
  return lengths;
}

void BlockRows::embed_blocks(Embedder& embedder, std::span<const std::int32_t> context) const {
  for (const OwnBlock& own : blocks_) {
    embedder.embed(
        context.subspan(static_cast<std::size_t>(own.rows.first_position), static_cast<std::size_t>(own.rows.count())),
        own.rows.hidden);
  }
}

std::int64_t longest_rows(const Partition& partition, int rank) {
  std::int64_t longest =
      std::max<std::int64_t>(partition.anchor_slice(rank).length(), partition.lengths.longest_query());
  for (const int number : partition.blocks_of(rank)) {
    longest = std::max<std::int64_t>(longest, partition.blocks[static_cast<std::size_t>(number)].length());
  }
  return longest;
}

std::vector<SlotRange> cached_blocks(const KeyValueStore& store, int layers, const std::vector<int>& lengths) {
  std::vector<SlotRange> cached;
  for (int layer = 0; layer < layers; ++layer) {
    for (int own = 0; own < static_cast<int>(lengths.size()); ++own) {
      cached.push_back({store.slot(layer, own), lengths[static_cast<std::size_t>(own)]});
    }
  }
  return cached;
}

}  // namespace apb
