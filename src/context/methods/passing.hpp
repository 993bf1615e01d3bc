// The methods whose blocks see what earlier blocks pass on: apb, star (which passes nothing) and full (which passes
// everything). One all-gather a layer.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "context/block_rows.hpp"
#include "context/compressor.hpp"
#include "context/exchange.hpp"
#include "context/methods/context_method.hpp"
#include "context/query_cache.hpp"
#include "context/running_attention.hpp"
#include "device/key_value_store.hpp"

namespace apb {

class PassingMethod : public ContextMethod {
 public:
  explicit PassingMethod(const Setup& setup);

  void embed(Embedder& embedder, std::span<const std::int32_t> context, std::span<const std::int32_t> query) override;
  void project_query(int layer, const Rows& query, int stored) override;
  void run_layer(int layer, ConstView query) override;
  QueryShare query_share(int layer) const override;
  std::vector<std::int32_t> selection() override;

 private:
  void reserve_selection();

  void project_block(int layer, int own);
  void compress_block(int layer, int own);
  void project_anchor(int layer);
  void attend_anchor(int layer);
  void attend_blocks(int layer);
  /// Attends to own blocks while the exchange is under way, and to the rest behind it.
  void attend_during_exchange(int layer);

  const OwnBlock& own_block(int own) const { return rows_.blocks()[static_cast<std::size_t>(own)]; }
  const Block& block(int own) const { return partition_.blocks[static_cast<std::size_t>(own_block(own).number)]; }
  const Rows& block_rows(int own) const { return own_block(own).rows; }
  int own_blocks() const { return static_cast<int>(rows_.blocks().size()); }
  bool last_layer(int layer) const { return layer + 1 == layers_; }
  /// Whether a block's tokens are scored and selected in this layer.
  bool selects(int layer, int own) const;
  SlotRange cached(int layer, int own) const;
  View scores_of(int own) const;
  View positions_of(int layer, int own) const;

  Device& device_;
  LayerRunner& runner_;
  const Partition& partition_;
  HeadShape shape_;
  int layers_;
  bool keep_selection_;

  BlockRows rows_;
  KeyValueStore store_;  // regions: own blocks
  QueryCache query_cache_;
  Exchange exchange_;
  std::unique_ptr<Compressor> compressor_;
  std::vector<SlotRange> cached_;            // [layers, own blocks]
  std::optional<RunningAttention> running_;  // with overlap
  Buffer scores_;
  Buffer positions_;
};

}  // namespace apb
