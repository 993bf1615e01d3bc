// One transformer layer over a set of rows, in chunks, so that activations never grow with the block.
#pragma once

#include <functional>

#include "device/device.hpp"
#include "model/model.hpp"

namespace apb {

/// Rows that go through the layers together, at consecutive positions.
struct Rows {
  View hidden;  // residual stream, f32 [rows, hidden]
  View query;   // Q after RoPE [rows, heads * head_dim], kept between projection and attention
  std::int64_t first_position = 0;

  std::int64_t count() const { return hidden.rows; }
};

class LayerRunner {
 public:
  /// `rotary` f32 [positions, head_dim] on the device (model/rope.hpp).
  /// Once `stop_requested` says so, chunks of rows are left out: what is computed then will not be used.
  LayerRunner(Device& device, const Model& model, ConstView rotary, std::function<bool()> stop_requested);

  /// Called with each chunk's first row and its (Q, K, V) before RoPE.
  using ChunkVisitor = std::function<void(std::int64_t first_row, ConstView qkv)>;

  /// Normalises and projects; Q to rows.query (if `keep_query`), K and V behind the slot's first `first_token` tokens.
  void project(int layer, const Rows& rows, Slot slot, int first_token, bool keep_query,
               const ChunkVisitor& visit = {});

  /// Q, K and V before RoPE of at most `chunk()` rows; valid until the next projection.
  View project_qkv(int layer, View hidden);

  /// Attention of the rows' Q over what they see, output projection, feed-forward; adds to rows.hidden.
  /// `seen` gives visible and causal; row 0 of `rows` stands at its causal_before.
  void attend_and_feed_forward(int layer, const Rows& rows, AttentionArguments seen);

  /// Output projection and feed-forward for rows whose attention [rows, heads * head_dim] is known; for query rows,
  /// whose phase has been marked.
  void finish_attended(int layer, View hidden, ConstView attended);
  /// The same for at most `chunk()` context rows, with their phases.
  void finish_chunk(int layer, View hidden, ConstView attended);

  /// Rows that are computed at a time.
  std::int64_t chunk() const { return chunk_; }
  /// Where the attention [rows, heads * head_dim] of a chunk goes.
  View attended(std::int64_t rows) const { return scratch(attended_, rows, shape_.query_columns()); }
  /// RMS norms of each head of Q and K in this layer, empty where the model has none.
  HeadNorms head_norms(int layer) const;
  ConstView rotary() const { return rotary_; }
  bool stop_requested() const { return stop_requested_(); }

 private:
  void feed_forward(int layer, View hidden);  // at most a chunk of rows
  View scratch(const Buffer& buffer, std::int64_t rows, std::int64_t columns) const;

  Device& device_;
  const Model& model_;
  HeadShape shape_;
  ConstView rotary_;
  std::function<bool()> stop_requested_;
  std::int64_t chunk_;
  Buffer normed_;     // [chunk, hidden]
  Buffer qkv_;        // [chunk, (heads + 2 kv_heads) head_dim]
  Buffer attended_;   // [chunk, heads * head_dim]
  Buffer gate_up_;    // [chunk, 2 intermediate]
  Buffer activated_;  // [chunk, intermediate]
};

}  // namespace apb
