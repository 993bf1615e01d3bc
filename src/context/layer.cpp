#include "context/layer.hpp"

#include <algorithm>
#include <utility>

namespace apb {

LayerRunner::LayerRunner(Device& device, const Model& model, ConstView rotary, std::function<bool()> stop_requested)
    : device_(device),
      model_(model),
      shape_(model.config.head_shape()),
      rotary_(rotary),
      stop_requested_(std::move(stop_requested)),
      chunk_(device.row_chunk()) {
  const auto room = [&](int columns) {
    return device.allocate(static_cast<std::size_t>(chunk_ * columns) * size_of(device.compute_type()));
  };
  normed_ = room(model.config.hidden);
  qkv_ = room(shape_.qkv_columns());
  attended_ = room(shape_.query_columns());
  gate_up_ = room(2 * model.config.intermediate);
  activated_ = room(model.config.intermediate);
}

View LayerRunner::scratch(const Buffer& buffer, std::int64_t rows, std::int64_t columns) const {
  return buffer.view(device_.compute_type(), rows, columns);
}

HeadNorms LayerRunner::head_norms(int layer) const {
  const LayerWeights& weights = model_.layers.at(static_cast<std::size_t>(layer));
  if (weights.query_norm.data() == nullptr) return {};
  return {.query = weights.query_norm.view(DataType::f32, 1, shape_.head_dim),
          .key = weights.key_norm.view(DataType::f32, 1, shape_.head_dim),
          .epsilon = static_cast<float>(model_.config.rms_epsilon)};
}

View LayerRunner::project_qkv(int layer, View hidden) {
  const LayerWeights& weights = model_.layers.at(static_cast<std::size_t>(layer));
  const View normed = scratch(normed_, hidden.rows, model_.config.hidden);
  const View qkv = scratch(qkv_, hidden.rows, shape_.qkv_columns());
  device_.rms_norm(hidden, weights.input_norm.view(DataType::f32, 1, model_.config.hidden),
                   static_cast<float>(model_.config.rms_epsilon), normed);
  device_.linear(normed, *weights.qkv, qkv, false);
  return qkv;
}

void LayerRunner::project(int layer, const Rows& rows, Slot slot, int first_token, bool keep_query,
                          const ChunkVisitor& visit) {
  for (std::int64_t first = 0; first < rows.count() && !stop_requested_(); first += chunk_) {
    const std::int64_t count = std::min(chunk_, rows.count() - first);
    const View qkv = project_qkv(layer, rows.hidden.row_range(first, count));
    if (visit) visit(first, qkv);
    device_.rotate_and_store(shape_, qkv, head_norms(layer), rotary_, rows.first_position + first,
                             keep_query ? rows.query.row_range(first, count) : View{}, slot,
                             first_token + static_cast<int>(first));
  }
}

void LayerRunner::attend_and_feed_forward(int layer, const Rows& rows, AttentionArguments seen) {
  const std::int64_t before = seen.causal_before;
  for (std::int64_t first = 0; first < rows.count() && !stop_requested_(); first += chunk_) {
    const std::int64_t count = std::min(chunk_, rows.count() - first);
    device_.mark(Phase::attention);
    seen.shape = shape_;
    seen.query = rows.query.row_range(first, count);
    seen.causal_before = before + first;
    seen.output = attended(count);
    device_.attention(seen);
    finish_chunk(layer, rows.hidden.row_range(first, count), seen.output);
  }
}

void LayerRunner::finish_chunk(int layer, View hidden, ConstView attended) {
  device_.mark(Phase::projection);
  device_.linear(attended, *model_.layers.at(static_cast<std::size_t>(layer)).attention_output, hidden, true);
  device_.mark(Phase::feed_forward);
  feed_forward(layer, hidden);
}

void LayerRunner::finish_attended(int layer, View hidden, ConstView attended) {
  device_.linear(attended, *model_.layers.at(static_cast<std::size_t>(layer)).attention_output, hidden, true);
  for (std::int64_t first = 0; first < hidden.rows; first += chunk_) {
    feed_forward(layer, hidden.row_range(first, std::min(chunk_, hidden.rows - first)));
  }
}

void LayerRunner::feed_forward(int layer, View hidden) {
  const LayerWeights& weights = model_.layers.at(static_cast<std::size_t>(layer));
  const View normed = scratch(normed_, hidden.rows, model_.config.hidden);
  const View gate_up = scratch(gate_up_, hidden.rows, 2LL * model_.config.intermediate);
  const View activated = scratch(activated_, hidden.rows, model_.config.intermediate);
  device_.rms_norm(hidden, weights.post_attention_norm.view(DataType::f32, 1, model_.config.hidden),
                   static_cast<float>(model_.config.rms_epsilon), normed);
  device_.linear(normed, *weights.gate_up, gate_up, false);
  device_.silu_multiply(gate_up, activated);
  device_.linear(activated, *weights.down, hidden, true);
}

}  // namespace apb
