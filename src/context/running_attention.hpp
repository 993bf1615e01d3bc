// Attention of the own blocks' rows over keys that arrive in turns: outputs merged so far, in float32, by log-sum-exp.
#pragma once

#include <cstddef>
#include <vector>

#include "context/block_rows.hpp"
#include "context/layer.hpp"
#include "device/device.hpp"

namespace apb {

class RunningAttention {
 public:
  /// `blocks` must outlive this.
  RunningAttention(Device& device, LayerRunner& runner, const HeadShape& shape, const std::vector<OwnBlock>& blocks);

  /// The first keys of an own block's rows: `visible` and `causal`, whose row 0 is the block's.
  void begin(int own, std::span<const SlotRange> visible, SlotRange causal);
  /// Further keys.
  void add(int own, std::span<const SlotRange> visible);
  /// Output projection and feed-forward with what has been attended to.
  void finish(int layer, int own);

 private:
  struct Chunk {
    std::int64_t first = 0;  // row of the block
    std::int64_t count = 0;
  };

  /// Calls visit(chunk, its number among all) for a block's chunks, until a rank is told to stop.
  template <typename Visit>
  void for_each_chunk(int own, const Visit& visit);

  Device& device_;
  LayerRunner& runner_;
  HeadShape shape_;
  const std::vector<OwnBlock>& blocks_;
  Buffer merged_;                         // f32: outputs [rows, heads * head_dim], then log-sum-exps [rows, heads]
  Buffer further_;                        // the same of a chunk's further keys
  std::vector<View> outputs_;             // of each chunk
  std::vector<View> log_sum_exps_;        // of each chunk
  std::vector<PartialAttention> merges_;  // the two of each chunk
  std::vector<std::size_t> first_chunk_;  // of each block
};

/// Bytes that it takes for so many rows.
std::size_t running_attention_bytes(const HeadShape& shape, std::int64_t rows, std::int64_t chunk);

}  // namespace apb
