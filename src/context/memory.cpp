#include "context/memory.hpp"

#include <algorithm>

#include "device/key_value_store.hpp"

namespace apb {
namespace {

/// Adds up buffers of rows x columns.
class Sum {
 public:
  void add(DataType type, std::int64_t rows, std::int64_t columns) {
    bytes_ += static_cast<std::size_t>(rows * columns) * size_of(type);
  }
  void add(std::size_t bytes) { bytes_ += bytes; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_ = 0;
};

/// What a rank carries through the layers.
struct RowCounts {
  std::int64_t all = 0;
  std::int64_t longest = 0;        // of anchor slice, own blocks and query
  std::int64_t longest_block = 0;  // of the own blocks
};

RowCounts count_rows(const Partition& partition, int rank) {
  const std::int64_t anchor = partition.anchor_slice(rank).length();
  RowCounts rows{.all = anchor + partition.lengths.longest_query(),
                 .longest = std::max(anchor, partition.lengths.longest_query())};
  for (const int number : partition.blocks_of(rank)) {
    const std::int64_t length = partition.blocks[static_cast<std::size_t>(number)].length();
    rows.all += length;
    rows.longest_block = std::max(rows.longest_block, length);
  }
  rows.longest = std::max(rows.longest, rows.longest_block);
  return rows;
}

void add_cache(Sum& sum, const Device& device, const Model& model, const Partition& partition, int rank) {
  const HeadShape shape = model.config.head_shape();
  const auto layers = static_cast<std::size_t>(model.config.layers);
  const auto slot = [&](std::int64_t tokens) { return device.slot_bytes(slot_capacity(device, tokens), shape); };
  for (const int number : partition.blocks_of(rank)) {
    sum.add(layers * slot(partition.blocks[static_cast<std::size_t>(number)].length()));
  }
  sum.add((partition.last_rank() == rank ? layers : 1) *
          slot(partition.lengths.longest_query() + partition.lengths.max_new_tokens));
}

void add_exchange(Sum& sum, const Device& device, const HeadShape& shape, const Partition& partition) {
  const bool sharded = partition.anchor_placement == AnchorPlacement::sharded;
  const std::size_t anchor = device.slot_bytes(partition.anchor_capacity, shape);
  const std::size_t passing = device.slot_bytes(partition.passing_capacity, shape);
  const auto slots = static_cast<std::size_t>(partition.blocks_per_rank());
  sum.add(static_cast<std::size_t>(partition.ranks) * ((sharded ? anchor : 0) + slots * passing));
  if (!sharded) sum.add(anchor);
}

void add_compression(Sum& sum, const Device& device, const Model& model, const Partition& partition,
                     const MethodOptions& options, int rank, bool keep_selection) {
  const HeadShape shape = model.config.head_shape();
  sum.add(DataType::f32, count_rows(partition, rank).longest_block, shape.kv_heads);
  const auto blocks = static_cast<std::int64_t>(partition.blocks_of(rank).size());
  sum.add(DataType::i32, (keep_selection ? model.config.layers : 1) * blocks * shape.kv_heads,
          std::max(1, partition.passing_capacity));
  if (options.compressor == CompressorKind::query_similarity) sum.add(DataType::f32, shape.kv_heads, shape.head_dim);
  if (options.compressor == CompressorKind::retaining_heads) {
    std::int64_t inner = 0;
    for (const auto& head : model.retaining_heads) inner = std::max(inner, head.fc1->outputs());
    sum.add(device.compute_type(), device.row_chunk(), inner);
  }
}

}  // namespace

std::size_t memory_needed(const Device& device, const Model& model, const Partition& partition,
                          const MethodOptions& options, int rank, bool keep_selection) {
  const ModelConfig& config = model.config;
  const HeadShape shape = config.head_shape();
  const DataType type = device.compute_type();
  const auto& lengths = partition.lengths;
  const RowCounts rows = count_rows(partition, rank);
  Sum sum;
  sum.add(DataType::f32, lengths.context + lengths.longest_query() + lengths.max_new_tokens, shape.head_dim);  // angles
  sum.add(type, device.row_chunk(),
          config.hidden + shape.qkv_columns() + shape.query_columns() + 3LL * config.intermediate);  // activations
  sum.add(DataType::f32, rows.all, config.hidden);
  sum.add(type, rows.all, shape.query_columns());
  sum.add(DataType::i32, rows.longest, 1);
  add_cache(sum, device, model, partition, rank);
  add_exchange(sum, device, shape, partition);
  add_compression(sum, device, model, partition, options, rank, keep_selection);
  sum.add(DataType::f32, partition.ranks,
          lengths.longest_query() * (shape.query_columns() + shape.heads));  // partial outputs
  sum.add(type, lengths.longest_query(), shape.query_columns());             // merged
  sum.add(type, 1, config.hidden);
  if (model.head) sum.add(DataType::f32, 1, config.vocabulary);
  return sum.bytes();
}

}  // namespace apb
