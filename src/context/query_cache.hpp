// The K/V of the question and of what is generated after it, all KV heads, on the rank that attends to them.
#pragma once

#include "context/layer.hpp"
#include "context/partition.hpp"
#include "device/key_value_store.hpp"

namespace apb {

class QueryCache {
 public:
  /// Where they are not kept, the layers share one slot that nobody reads.
  QueryCache(Device& device, LayerRunner& runner, const ModelConfig& config, const DocumentLengths& lengths, bool kept);

  /// Projects query rows: their Q, and their K and V behind the `stored` tokens that are there.
  void project(int layer, const Rows& query, int stored, const LayerRunner::ChunkVisitor& visit = {});
  Slot slot(int layer) const { return store_.slot(kept_ ? layer : 0, 0); }
  bool kept() const { return kept_; }

 private:
  LayerRunner& runner_;
  bool kept_;
  KeyValueStore store_;
};

}  // namespace apb
