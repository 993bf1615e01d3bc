// Exact attention with the K/V of all ranks travelling around a ring, while each rank attends to what it holds.
//
// Blocks are dealt zigzag, so that every rank has as much to attend to at every step. In step s a rank holds the K/V
// of the rank s places before it; partial outputs are merged in float32 by their log-sum-exp.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "context/block_rows.hpp"
#include "context/methods/context_method.hpp"
#include "context/query_cache.hpp"
#include "context/running_attention.hpp"
#include "device/key_value_store.hpp"

namespace apb {

class RingMethod : public ContextMethod {
 public:
  explicit RingMethod(const Setup& setup);

  void embed(Embedder& embedder, std::span<const std::int32_t> context, std::span<const std::int32_t> query) override;
  void project_query(int layer, const Rows& query, int stored) override;
  void run_layer(int layer, ConstView query) override;
  QueryShare query_share(int layer) const override;

 private:
  void list_seen();
  std::shared_ptr<Transfer> start_step(int layer, int step);
  void attend(int layer, int own, int step);
  View travelling(int step) const;
  std::span<const SlotRange> cached(int layer) const;
  int own_blocks() const { return static_cast<int>(rows_.blocks().size()); }

  Device& device_;
  Communicator& communicator_;
  LayerRunner& runner_;
  const Partition& partition_;
  HeadShape shape_;
  int layers_;

  BlockRows rows_;
  KeyValueStore store_;  // regions: as many as any rank has blocks, all as long as the longest block
  QueryCache query_cache_;
  std::vector<SlotRange> cached_;     // [layers, own blocks]
  std::array<Buffer, 2> travelling_;  // a layer's K/V of another rank; received in turns
  // What an own block sees in a step behind the first: [these steps, own blocks]
  std::vector<std::vector<SlotRange>> seen_;
  RunningAttention running_;
};

}  // namespace apb
