// How the rows of the context see each other: the part of a layer in which the methods differ.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "context/embedder.hpp"
#include "context/layer.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// What a rank's share of the query rows' attention is made of.
struct QueryShare {
  HeadShape shape{};                     // heads that this rank attends for, ...
  int first_head = 0;                    // ... beginning at this query head
  std::span<const SlotRange> context{};  // cached K/V that every query row sees
  Slot query{};                          // the query's own K/V, ...
  bool sees_query = false;               // ... if they are this rank's to attend to
};

class ContextMethod {
 public:
  struct Setup {
    Device& device;
    Communicator& communicator;
    const Model& model;
    const Partition& partition;
    const MethodOptions& options;
    LayerRunner& runner;
    std::uint64_t document = 0;   // tells documents apart for the random compressor
    bool keep_selection = false;  // of every layer, for selection()
    bool overlap = false;         // attend to own blocks while the exchange is under way
  };

  ContextMethod() = default;
  virtual ~ContextMethod() = default;
  ContextMethod(const ContextMethod&) = delete;
  ContextMethod& operator=(const ContextMethod&) = delete;

  /// The tokens of this rank's rows into the residual stream.
  virtual void embed(Embedder& embedder, std::span<const std::int32_t> context,
                     std::span<const std::int32_t> query) = 0;
  /// Projects query rows: their Q, and where they are attended to their K and V behind the `stored` tokens there.
  virtual void project_query(int layer, const Rows& query, int stored) = 0;
  /// One layer over this rank's rows; those of the last layer stop after their keys and values. `query`: the query
  /// rows' Q after RoPE [m, heads * head_dim].
  virtual void run_layer(int layer, ConstView query) = 0;
  /// The rank's share of the query rows' attention in a layer that has run.
  virtual QueryShare query_share(int layer) const = 0;

  /// Context positions that this rank's blocks passed on, [layers, own blocks, kv_heads, passing_length], -1 where
  /// nothing; after Device::synchronize. Needs keep_selection.
  virtual std::vector<std::int32_t> selection() { return {}; }
};

/// Takes all memory that the context needs; throws Error when there is not enough.
std::unique_ptr<ContextMethod> make_context_method(const ContextMethod::Setup& setup);

}  // namespace apb
