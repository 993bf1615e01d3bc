#include "context/methods/passing.hpp"

#include <algorithm>
#include <utility>

namespace apb {

PassingMethod::PassingMethod(const Setup& setup)
    : device_(setup.device),
      runner_(setup.runner),
      partition_(setup.partition),
      shape_(setup.model.config.head_shape()),
      layers_(setup.model.config.layers),
      keep_selection_(setup.keep_selection),
      rows_(setup.device, setup.model.config, setup.partition, setup.communicator.rank()),
      store_(setup.device, shape_, layers_, rows_.lengths()),
      query_cache_(setup.device, setup.runner, setup.model.config, setup.partition.lengths,
                   setup.partition.last_rank() == setup.communicator.rank()),
      exchange_(setup.device, setup.communicator, shape_, setup.partition),
      compressor_(make_compressor(setup.options, setup.device, setup.model, setup.document)),
      cached_(cached_blocks(store_, layers_, rows_.lengths())) {
  if (setup.overlap && setup.partition.has_exchange()) {
    running_.emplace(device_, runner_, shape_, rows_.blocks());
  }
  reserve_selection();
}

void PassingMethod::reserve_selection() {
  std::int64_t longest = 0;
  for (const OwnBlock& own : rows_.blocks()) longest = std::max(longest, own.rows.count());
  scores_ = device_.allocate(view_bytes(DataType::f32, longest, shape_.kv_heads));
  const std::int64_t kept_layers = keep_selection_ ? layers_ : 1;
  const std::int64_t slots = kept_layers * own_blocks() * shape_.kv_heads;
  positions_ = device_.allocate(view_bytes(DataType::i32, slots, std::max(1, partition_.passing_capacity)));
  std::vector<std::int32_t> initial(
      static_cast<std::size_t>(slots) * static_cast<std::size_t>(partition_.passing_capacity), -1);
  if (partition_.passes_everything()) {
    for (std::size_t i = 0; i < initial.size(); ++i) {
      initial[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(partition_.passing_capacity));
    }
  }
  if (!initial.empty()) {
    device_.upload(host_view(initial.data(), slots, partition_.passing_capacity),
                   positions_.view(DataType::i32, slots, partition_.passing_capacity));
  }
}

void PassingMethod::embed(Embedder& embedder, std::span<const std::int32_t> context,
                          std::span<const std::int32_t> query) {
  const auto anchor = anchor_tokens(partition_, context, query);
  const Rows& slice = rows_.anchor();
  embedder.embed(std::span(anchor).subspan(static_cast<std::size_t>(slice.first_position),
                                           static_cast<std::size_t>(slice.count())),
                 slice.hidden);
  rows_.embed_blocks(embedder, context);
}

void PassingMethod::project_query(int layer, const Rows& query, int stored) {
  query_cache_.project(layer, query, stored);
}

void PassingMethod::run_layer(int layer, ConstView query) {
  if (!last_layer(layer)) compressor_->begin_layer(query);
  for (int own = 0; own < own_blocks(); ++own) {
    project_block(layer, own);
    compress_block(layer, own);
  }
  // Context and anchor rows of the last layer stop after their keys and values: nobody reads what would follow.
  if (last_layer(layer)) return;
  project_anchor(layer);
  if (running_) {
    attend_during_exchange(layer);
  } else {
    device_.mark(Phase::communication);
    if (auto transfer = exchange_.start()) device_.wait_for(std::move(transfer));
    attend_anchor(layer);
    attend_blocks(layer);
  }
}

void PassingMethod::project_block(int layer, int own) {
  device_.mark(Phase::projection);
  const auto score = [&](std::int64_t first_row, ConstView qkv) {
    device_.mark(Phase::compression);
    compressor_->score_rows(layer, qkv, scores_of(own).row_range(first_row, qkv.rows));
    device_.mark(Phase::projection);
  };
  runner_.project(layer, block_rows(own), cached(layer, own).slot, 0, !last_layer(layer),
                  selects(layer, own) ? LayerRunner::ChunkVisitor(score) : LayerRunner::ChunkVisitor());
}

void PassingMethod::compress_block(int layer, int own) {
  if (last_layer(layer) || block(own).passing == 0 || runner_.stop_requested()) return;
  device_.mark(Phase::compression);
  if (selects(layer, own)) {
    const int excluded = block(own).begin == 0 ? partition_.anchor_context_tokens() : 0;
    compressor_->score_block(layer, block(own).begin, cached(layer, own), scores_of(own));
    device_.select(scores_of(own), compressor_->pool_window(), excluded, positions_of(layer, own));
  }
  device_.gather(shape_, cached(layer, own), positions_of(layer, own), exchange_.passing_slot(own_block(own).number));
}

void PassingMethod::project_anchor(int layer) {
  if (rows_.anchor().count() == 0) return;
  device_.mark(Phase::projection);
  runner_.project(layer, rows_.anchor(), exchange_.anchor_slot(), 0, true);
}

void PassingMethod::attend_anchor(int layer) {
  const Rows& anchor = rows_.anchor();
  if (anchor.count() == 0) return;
  runner_.attend_and_feed_forward(layer, anchor,
                                  {.visible = exchange_.visible_to_anchor(),
                                   .causal = {exchange_.anchor_slot(), static_cast<int>(anchor.count())}});
}

void PassingMethod::attend_blocks(int layer) {
  for (int own = 0; own < own_blocks(); ++own) {
    runner_.attend_and_feed_forward(
        layer, block_rows(own),
        {.visible = exchange_.visible_to_block(own_block(own).number), .causal = cached(layer, own)});
  }
}

void PassingMethod::attend_during_exchange(int layer) {
  device_.mark(Phase::communication);
  auto transfer = exchange_.start();
  device_.mark(Phase::attention);
  for (int own = 0; own < own_blocks(); ++own) running_->begin(own, {}, cached(layer, own));
  device_.mark(Phase::communication);
  device_.wait_for(std::move(transfer));
  attend_anchor(layer);
  for (int own = 0; own < own_blocks(); ++own) {
    device_.mark(Phase::attention);
    running_->add(own, exchange_.visible_to_block(own_block(own).number));
    running_->finish(layer, own);
  }
}

QueryShare PassingMethod::query_share(int layer) const {
  const auto own = static_cast<std::size_t>(own_blocks());
  return {.shape = shape_,
          .context = std::span(cached_).subspan(static_cast<std::size_t>(layer) * own, own),
          .query = query_cache_.slot(layer),
          .sees_query = query_cache_.kept()};
}

std::vector<std::int32_t> PassingMethod::selection() {
  const std::int64_t slots = static_cast<std::int64_t>(layers_) * own_blocks() * shape_.kv_heads;
  const auto length = static_cast<std::size_t>(partition_.passing_length);
  if (length == 0) return {};  // also where everything is passed on, which nobody chose
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(slots) * length, -1);
  for (int layer = 0; layer + 1 < layers_; ++layer) {
    for (int own = 0; own < own_blocks(); ++own) {
      const View positions = positions_of(layer, own);
      if (positions.empty()) continue;
      const auto first =
          static_cast<std::size_t>(layer * own_blocks() + own) * static_cast<std::size_t>(shape_.kv_heads);
      std::int32_t* block_chosen = chosen.data() + first * length;
      device_.download(positions, {reinterpret_cast<std::byte*>(block_chosen), DataType::i32, Space::host,
                                   positions.rows, positions.columns, partition_.passing_length});
    }
  }
  device_.synchronize();
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto own = static_cast<int>(i / length / static_cast<std::size_t>(shape_.kv_heads) % rows_.blocks().size());
    if (chosen[i] >= 0) chosen[i] += static_cast<std::int32_t>(block(own).begin);
  }
  return chosen;
}

bool PassingMethod::selects(int layer, int own) const {
  return !last_layer(layer) && block(own).passing > 0 && !partition_.passes_everything();
}

SlotRange PassingMethod::cached(int layer, int own) const {
  return cached_[static_cast<std::size_t>(layer * own_blocks() + own)];
}

View PassingMethod::scores_of(int own) const {
  return scores_.view(DataType::f32, block_rows(own).count(), shape_.kv_heads);
}

View PassingMethod::positions_of(int layer, int own) const {
  const std::int64_t slot = (keep_selection_ ? layer : 0) * own_blocks() + own;
  View positions = positions_.view(DataType::i32, shape_.kv_heads, partition_.passing_capacity,
                                   view_bytes(DataType::i32, slot * shape_.kv_heads, partition_.passing_capacity));
  positions.columns = block(own).passing;
  return positions;
}

}  // namespace apb
