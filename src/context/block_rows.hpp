// The rows that a rank carries through the layers for its own blocks and its slice of the anchor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "context/embedder.hpp"
#include "context/layer.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"
#include "device/key_value_store.hpp"

namespace apb {

struct OwnBlock {
  int number = 0;  // in the document
  Rows rows;
};

/// Residual stream and Q of the rows, in two buffers.
class BlockRows {
 public:
  BlockRows(Device& device, const ModelConfig& config, const Partition& partition, int rank);

  const Rows& anchor() const { return anchor_; }
  const std::vector<OwnBlock>& blocks() const { return blocks_; }
  /// Rows of each own block.
  std::vector<int> lengths() const;
  void embed_blocks(Embedder& embedder, std::span<const std::int32_t> context) const;

 private:
  Buffer hidden_;   // f32 [rows, hidden]
  Buffer queries_;  // [rows, heads * head_dim]
  Rows anchor_;
  std::vector<OwnBlock> blocks_;
};

/// The most rows that a rank has of one kind: of a block, the anchor slice or the questions.
std::int64_t longest_rows(const Partition& partition, int rank);

/// Own blocks' K/V, [layers, own blocks], in a store whose regions they are.
std::vector<SlotRange> cached_blocks(const KeyValueStore& store, int layers, const std::vector<int>& lengths);

}  // namespace apb
