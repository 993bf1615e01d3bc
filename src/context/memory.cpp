#include "context/memory.hpp"

#include <algorithm>

#include "context/block_rows.hpp"
#include "context/methods/ulysses.hpp"
#include "context/running_attention.hpp"
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

/// Context and anchor rows that a rank carries through the layers.
struct RowCounts {
  std::int64_t all = 0;
  std::int64_t blocks = 0;
  std::int64_t longest_block = 0;
};

RowCounts count_rows(const Partition& partition, int rank) {
  RowCounts rows;
  for (const int number : partition.blocks_of(rank)) {
    const std::int64_t length = partition.blocks[static_cast<std::size_t>(number)].length();
    rows.blocks += length;
    rows.longest_block = std::max(rows.longest_block, length);
  }
  rows.all = rows.blocks + partition.anchor_slice(rank).length();
  return rows;
}

std::size_t slot_for(const Device& device, const HeadShape& shape, std::int64_t tokens) {
  return device.slot_bytes(slot_capacity(device, tokens), shape);
}

void add_rows(Sum& sum, const Device& device, const ModelConfig& config, std::int64_t rows) {
  sum.add(DataType::f32, rows, config.hidden);
  sum.add(device.compute_type(), rows, config.head_shape().query_columns());
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

void add_passing_method(Sum& sum, const Device& device, const Model& model, const Partition& partition,
                        const MethodOptions& options, int rank, bool keep_selection) {
  const HeadShape shape = model.config.head_shape();
  for (const int number : partition.blocks_of(rank)) {
    const int length = partition.blocks[static_cast<std::size_t>(number)].length();
    sum.add(static_cast<std::size_t>(model.config.layers) * slot_for(device, shape, length));
  }
  add_exchange(sum, device, shape, partition);
  add_compression(sum, device, model, partition, options, rank, keep_selection);
}

void add_ring_method(Sum& sum, const Device& device, const ModelConfig& config, const Partition& partition, int rank) {
  const HeadShape shape = config.head_shape();
  const std::size_t layer = static_cast<std::size_t>(partition.blocks_per_rank()) *
                            slot_for(device, shape, partition.blocks.front().length());
  sum.add((static_cast<std::size_t>(config.layers) + (partition.ranks > 1 ? 2 : 0)) * layer);
  sum.add(running_attention_bytes(shape, count_rows(partition, rank).blocks, device.row_chunk()));
}

void add_ulysses_method(Sum& sum, const Device& device, const ModelConfig& config, const Partition& partition) {
  const HeadShape share = ulysses_share(config.head_shape(), partition.ranks);
  sum.add(static_cast<std::size_t>(config.layers) * (slot_for(device, share, partition.lengths.context) +
                                                     slot_for(device, share, partition.lengths.query_capacity())));
  sum.add(device.compute_type(), device.row_chunk(), share.qkv_columns());
  sum.add(device.compute_type(), partition.lengths.context, share.query_columns());
  sum.add(2 * view_bytes(device.compute_type(), partition.ranks * partition.most_rows(), share.qkv_columns()));
}

}  // namespace

std::size_t memory_needed(const Device& device, const Model& model, const Partition& partition,
                          const MethodOptions& options, int rank, bool keep_selection, bool overlap) {
  const ModelConfig& config = model.config;
  const HeadShape shape = config.head_shape();
  const DataType type = device.compute_type();
  const std::int64_t query = partition.lengths.longest_query();
  const int query_capacity = partition.lengths.query_capacity();
  Sum sum;
  sum.add(DataType::f32, partition.lengths.context + query_capacity, shape.head_dim);  // angles
  sum.add(type, device.row_chunk(),
          config.hidden + shape.qkv_columns() + shape.query_columns() + 3LL * config.intermediate);  // activations
  sum.add(DataType::i32, longest_rows(partition, rank), 1);                                          // tokens
  add_rows(sum, device, config, count_rows(partition, rank).all);
  switch (partition.method) {
    case Method::ring:
      add_ring_method(sum, device, config, partition, rank);
      break;
    case Method::ulysses:
      add_ulysses_method(sum, device, config, partition);
      break;
    default:
      add_passing_method(sum, device, model, partition, options, rank, keep_selection);
      if (overlap && partition.has_exchange()) {
        sum.add(running_attention_bytes(shape, count_rows(partition, rank).blocks, device.row_chunk()));
      }
  }
  add_rows(sum, device, config, query);
  const bool keeps_query = partition.method != Method::ulysses && partition.last_rank() == rank;
  sum.add(static_cast<std::size_t>(keeps_query ? config.layers : 1) * slot_for(device, shape, query_capacity));
  sum.add(DataType::f32, partition.ranks, (query + 1) * (shape.query_columns() + shape.heads));  // partial outputs
  sum.add(type, query, shape.query_columns());                                                   // merged
  sum.add(type, 1, config.hidden);
  if (model.head) sum.add(DataType::f32, 1, config.vocabulary);
  return sum.bytes();
}

}  // namespace apb
