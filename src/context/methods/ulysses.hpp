// Exact attention with an all-to-all from rows to heads and back (DeepSpeed-Ulysses): every rank attends for its share
// of the query heads over the whole context. KV heads that several ranks need are sent to each of them.
#pragma once

#include <memory>
#include <vector>

#include "context/block_rows.hpp"
#include "context/methods/context_method.hpp"
#include "context/query_cache.hpp"
#include "device/key_value_store.hpp"

namespace apb {

/// The heads that each of `ranks` ranks attends for. Where a rank's heads are not whole groups of a KV head's, it holds
/// that KV head once for as many heads as divide both. Throws Error when the ranks do not divide the query heads.
HeadShape ulysses_share(const HeadShape& shape, int ranks);

class UlyssesMethod : public ContextMethod {
 public:
  explicit UlyssesMethod(const Setup& setup);

  void embed(Embedder& embedder, std::span<const std::int32_t> context, std::span<const std::int32_t> query) override;
  void project_query(int layer, const Rows& query, int stored) override;
  void run_layer(int layer, ConstView query) override;
  QueryShare query_share(int layer) const override;

 private:
  void project(int layer);
  void deal_heads(ConstView qkv, std::int64_t first_row);
  void copy_share(int rank, ConstView qkv, View out);
  void store(int layer);
  void attend(int layer);
  void finish(int layer);
  View part_rows(const Buffer& parts, int rank, std::int64_t first, std::int64_t count, int columns) const;
  View part_views(const Buffer& parts, int columns) const;

  Device& device_;
  Communicator& communicator_;
  LayerRunner& runner_;
  const Partition& partition_;
  HeadShape shape_;
  HeadShape share_;  // of each rank
  int layers_;

  BlockRows rows_;
  KeyValueStore store_;                  // regions: the whole context and the query, of this rank's KV heads
  QueryCache all_heads_;                 // where the query's other heads go
  std::vector<SlotRange> cached_;        // [layers]
  std::vector<std::int64_t> first_row_;  // of each block among its rank's rows
  std::int64_t longest_rows_ = 0;        // of any rank
  Buffer query_;                         // [context, own heads * head_dim]
  Buffer send_;                          // a part for each rank: rows x what it needs of them
  Buffer receive_;                       // a part from each rank
  Buffer query_share_;                   // a chunk of query rows: this rank's columns
};

}  // namespace apb
