// The layer loop over one document: prefill and decoding are the same code, with different rows present.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "context/embedder.hpp"
#include "context/layer.hpp"
#include "context/methods/context_method.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// A document was abandoned because a rank was told to stop. Thrown on all ranks alike.
struct Interrupted {};

class Forward {
 public:
  struct Setup {
    Device& device;
    Communicator& communicator;
    const Model& model;
    const Partition& partition;
    const MethodOptions& options;
    std::uint64_t document = 0;   // tells documents apart for the random compressor
    bool keep_selection = false;  // of every layer, for selection()
    bool overlap = false;         // attend to own blocks while the exchange is under way
    /// Whether this rank has been told to stop; once true it stays true. Host only, asked often.
    std::function<bool()> stop_requested = [] { return false; };
  };

  /// Takes all memory that the document needs; throws Error when there is not enough.
  explicit Forward(const Setup& setup);

  /// All layers over anchor, blocks and query rows. `context` and `query` are the whole document's tokens.
  /// Throws Interrupted at the end of the layer in which a rank was told to stop.
  void prefill(std::span<const std::int32_t> context, std::span<const std::int32_t> query);

  /// All layers over another question about the prefilled context; what was asked and generated before is forgotten.
  /// Call it after Device::synchronize. Throws Interrupted as prefill does.
  void ask(std::span<const std::int32_t> query);

  /// All layers over one generated token; throws Interrupted as prefill does.
  void decode(std::int32_t token);

  /// Logits f32 [1, vocabulary] of what follows the last row; on the rank that has the model's head.
  ConstView last_logits();

  /// Context positions that this rank's blocks passed on, [layers, own blocks, kv_heads, passing_length], -1 where
  /// nothing; after Device::synchronize. Needs keep_selection.
  std::vector<std::int32_t> selection() { return method_->selection(); }

 private:
  struct QueryTables {
    View parts;                              // f32 [ranks, rows * (heads * head_dim + heads)]: output, log-sum-exp
    std::vector<PartialAttention> partials;  // the parts' views
    View own_output;
    View own_log_sum_exp;
  };

  void reserve_query_rows();
  QueryTables query_tables(const Buffer& parts, std::int64_t rows);
  void begin_question(std::span<const std::int32_t> query);

  void run_layers(bool with_context);
  void project_query(int layer);
  void attend_query(int layer);
  void leave_if_interrupted();

  bool last_layer(int layer) const { return layer + 1 == model_.config.layers; }

  Setup setup_;
  Device& device_;
  const Model& model_;
  const Partition& partition_;
  HeadShape shape_;
  int rank_;

  Buffer rotary_;
  std::optional<LayerRunner> runner_;
  std::optional<Embedder> embedder_;
  std::unique_ptr<ContextMethod> method_;

  Buffer hidden_;
  Buffer queries_;
  Rows query_rows_;  // room for the longest question; decoding uses the first
  Rows current_query_;
  int query_tokens_stored_ = 0;

  Buffer question_parts_;
  Buffer decode_parts_;
  Buffer merged_;
  QueryTables question_tables_;  // of the question asked last
  QueryTables decode_tables_;    // of one row
  Buffer normed_last_;
  Buffer logits_;
};

}  // namespace apb
