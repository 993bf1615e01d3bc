#include "context/forward.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "context/memory.hpp"
#include "model/rope.hpp"

namespace apb {
namespace {

std::size_t bytes_for(DataType type, std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(rows * columns) * size_of(type);
}

}  // namespace

Forward::Forward(const Setup& setup)
    : setup_(setup),
      device_(setup.device),
      model_(setup.model),
      partition_(setup.partition),
      shape_(setup.model.config.head_shape()),
      rank_(setup.communicator.rank()),
      owns_query_keys_(setup.partition.last_rank() == rank_) {
  device_.reserve(shape_, partition_.blocks.front().length(),
                  memory_needed(device_, model_, partition_, setup.options, rank_, setup.keep_selection));
  const auto& lengths = partition_.lengths;
  const std::int64_t query_capacity = lengths.longest_query() + lengths.max_new_tokens;
  const std::int64_t positions = lengths.context + query_capacity;
  const auto angles = rotary_table(model_.config, positions);
  rotary_ = device_.allocate(bytes_for(DataType::f32, positions, shape_.head_dim));
  const View rotary = rotary_.view(DataType::f32, positions, shape_.head_dim);
  device_.upload(host_view(angles.data(), positions, shape_.head_dim), rotary);
  runner_.emplace(device_, model_, rotary, setup.stop_requested);

  reserve_rows();
  std::vector<int> capacities;
  for (const OwnBlock& own : blocks_) capacities.push_back(static_cast<int>(own.rows.count()));
  store_.emplace(device_, shape_, model_.config.layers, capacities);
  const std::array query_capacities = {static_cast<int>(query_capacity)};
  query_store_.emplace(device_, shape_, owns_query_keys_ ? model_.config.layers : 1, query_capacities);
  for (int layer = 0; layer < model_.config.layers; ++layer) {
    for (int own = 0; own < static_cast<int>(blocks_.size()); ++own) {
      cached_.push_back({store_->slot(layer, own), capacities[static_cast<std::size_t>(own)]});
    }
  }

  exchange_.emplace(device_, setup.communicator, shape_, partition_);
  compressor_ = make_compressor(setup.options, device_, model_, setup.document);
  reserve_selection();
  reserve_query_tables();
  normed_last_ = device_.allocate(bytes_for(device_.compute_type(), 1, model_.config.hidden));
  if (model_.head) logits_ = device_.allocate(bytes_for(DataType::f32, 1, model_.config.vocabulary));
}

void Forward::reserve_rows() {
  const AnchorSlice slice = partition_.anchor_slice(rank_);
  const std::int64_t query = partition_.lengths.longest_query();
  std::int64_t rows = slice.length() + query;
  std::int64_t longest = std::max<std::int64_t>(slice.length(), query);
  const auto own = partition_.blocks_of(rank_);
  for (const int number : own) {
    const int length = partition_.blocks[static_cast<std::size_t>(number)].length();
    rows += length;
    longest = std::max<std::int64_t>(longest, length);
  }
  hidden_ = device_.allocate(bytes_for(DataType::f32, rows, model_.config.hidden));
  queries_ = device_.allocate(bytes_for(device_.compute_type(), rows, shape_.query_columns()));
  tokens_ = device_.allocate(bytes_for(DataType::i32, longest, 1));

  std::int64_t taken = 0;
  const auto take = [&](std::int64_t count, std::int64_t first_position) {
    const Rows taken_rows{
        .hidden = hidden_.view(DataType::f32, rows, model_.config.hidden).row_range(taken, count),
        .query = queries_.view(device_.compute_type(), rows, shape_.query_columns()).row_range(taken, count),
        .first_position = first_position};
    taken += count;
    return taken_rows;
  };
  anchor_ = take(slice.length(), slice.begin);
  for (const int number : own) {
    const Block& block = partition_.blocks[static_cast<std::size_t>(number)];
    blocks_.push_back({number, take(block.length(), block.begin)});
  }
  query_rows_ = take(query, partition_.lengths.context);
}

void Forward::reserve_selection() {
  std::int64_t longest = 0;
  for (const OwnBlock& own : blocks_) longest = std::max(longest, own.rows.count());
  scores_ = device_.allocate(bytes_for(DataType::f32, longest, shape_.kv_heads));
  const std::int64_t kept_layers = setup_.keep_selection ? model_.config.layers : 1;
  const std::int64_t slots = kept_layers * static_cast<std::int64_t>(blocks_.size()) * shape_.kv_heads;
  positions_ = device_.allocate(bytes_for(DataType::i32, slots, std::max(1, partition_.passing_capacity)));
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

void Forward::reserve_query_tables() {
  const std::int64_t query = partition_.lengths.longest_query();
  parts_ =
      device_.allocate(bytes_for(DataType::f32, partition_.ranks, query * (shape_.query_columns() + shape_.heads)));
  merged_ = device_.allocate(bytes_for(device_.compute_type(), query, shape_.query_columns()));
  decode_tables_ = query_tables(1);
}

Forward::QueryTables Forward::query_tables(std::int64_t rows) const {
  const std::int64_t outputs = rows * shape_.query_columns();
  const std::int64_t part = outputs + rows * shape_.heads;
  QueryTables tables;
  tables.parts = parts_.view(DataType::f32, partition_.ranks, part);
  for (int rank = 0; rank < partition_.ranks; ++rank) {
    const std::size_t offset = bytes_for(DataType::f32, rank, part);
    const View output = parts_.view(DataType::f32, rows, shape_.query_columns(), offset);
    const View log_sum_exp =
        parts_.view(DataType::f32, rows, shape_.heads, offset + bytes_for(DataType::f32, 1, outputs));
    tables.partials.push_back({output, log_sum_exp});
    if (rank == rank_) {
      tables.own_output = output;
      tables.own_log_sum_exp = log_sum_exp;
    }
  }
  return tables;
}

void Forward::embed(std::span<const std::int32_t> tokens, View hidden) {
  if (tokens.empty()) return;
  const auto count = static_cast<std::int64_t>(tokens.size());
  const View ids = tokens_.view(DataType::i32, count, 1);
  device_.upload(host_view(tokens.data(), count, 1), ids);
  device_.embed(ids, model_.embedding.view(device_.compute_type(), model_.config.vocabulary, model_.config.hidden),
                hidden);
}

void Forward::prefill(std::span<const std::int32_t> context, std::span<const std::int32_t> query) {
  device_.mark(Phase::embed);
  const auto anchor = anchor_tokens(partition_, context, query);
  const AnchorSlice slice = partition_.anchor_slice(rank_);
  embed(std::span(anchor).subspan(static_cast<std::size_t>(slice.begin), static_cast<std::size_t>(slice.length())),
        anchor_.hidden);
  for (const OwnBlock& own : blocks_) {
    embed(
        context.subspan(static_cast<std::size_t>(own.rows.first_position), static_cast<std::size_t>(own.rows.count())),
        own.rows.hidden);
  }
  begin_question(query);
  run_layers(true);
  query_tokens_stored_ = static_cast<int>(query.size());
}

void Forward::ask(std::span<const std::int32_t> query) {
  begin_question(query);
  run_layers(false);
  query_tokens_stored_ = static_cast<int>(query.size());
}

void Forward::begin_question(std::span<const std::int32_t> query) {
  const auto rows = static_cast<std::int64_t>(query.size());
  current_query_ = {.hidden = query_rows_.hidden.row_range(0, rows),
                    .query = query_rows_.query.row_range(0, rows),
                    .first_position = partition_.lengths.context};
  question_tables_ = query_tables(rows);
  query_tokens_stored_ = 0;
  embed(query, current_query_.hidden);
}

void Forward::decode(std::int32_t token) {
  current_query_.hidden = query_rows_.hidden.row_range(0, 1);
  current_query_.query = query_rows_.query.row_range(0, 1);
  current_query_.first_position = partition_.lengths.context + query_tokens_stored_;
  embed(std::span(&token, 1), current_query_.hidden);
  run_layers(false);
  ++query_tokens_stored_;
}

void Forward::run_layers(bool with_context) {
  if (!with_context) setup_.communicator.enter_stage("decoding");
  for (int layer = 0; layer < model_.config.layers; ++layer) {
    if (with_context) {
      setup_.communicator.enter_stage(fmt::format("prefill, layer {} of {}", layer + 1, model_.config.layers));
    }
    project_query(layer);
    if (with_context) {
      if (!last_layer(layer)) compressor_->begin_layer(current_query_.query);
      for (int own = 0; own < own_blocks(); ++own) {
        project_block(layer, own);
        compress_block(layer, own);
      }
    }
    // Context and anchor rows of the last layer stop after their keys and values: nobody reads what would follow.
    if (with_context && !last_layer(layer)) {
      project_anchor(layer);
      device_.mark(Phase::communication);
      if (auto transfer = exchange_->start()) device_.wait_for(std::move(transfer));
      attend_anchor(layer);
      for (int own = 0; own < own_blocks(); ++own) attend_block(layer, own);
    }
    attend_query(layer);
    if (with_context || last_layer(layer)) leave_if_interrupted();
  }
}

/// A rank that has been told to stop computes no more, but takes part in every exchange up to here, where all ranks
/// learn of it and leave together.
void Forward::leave_if_interrupted() {
  if (setup_.communicator.max(setup_.stop_requested() ? 1 : 0) == 0) return;
  device_.synchronize();  // what is still enqueued reads our memory
  throw Interrupted();
}

void Forward::project_query(int layer) {
  device_.mark(Phase::query);
  runner_->project(layer, current_query_, query_slot(layer), query_tokens_stored_, true);
}

void Forward::project_block(int layer, int own) {
  device_.mark(Phase::projection);
  const auto score = [&](std::int64_t first_row, ConstView qkv) {
    device_.mark(Phase::compression);
    compressor_->score_rows(layer, qkv, scores_of(own).row_range(first_row, qkv.rows));
    device_.mark(Phase::projection);
  };
  runner_->project(layer, block_rows(own), cached(layer, own).slot, 0, !last_layer(layer),
                   selects(layer, own) ? LayerRunner::ChunkVisitor(score) : LayerRunner::ChunkVisitor());
}

void Forward::compress_block(int layer, int own) {
  if (last_layer(layer) || block(own).passing == 0 || setup_.stop_requested()) return;
  device_.mark(Phase::compression);
  if (selects(layer, own)) {
    const int excluded = block(own).begin == 0 ? partition_.anchor_context_tokens() : 0;
    compressor_->score_block(layer, block(own).begin, cached(layer, own), scores_of(own));
    device_.select(scores_of(own), compressor_->pool_window(), excluded, positions_of(layer, own));
  }
  device_.gather(shape_, cached(layer, own), positions_of(layer, own),
                 exchange_->passing_slot(blocks_[static_cast<std::size_t>(own)].number));
}

void Forward::project_anchor(int layer) {
  if (anchor_.count() == 0) return;
  device_.mark(Phase::projection);
  runner_->project(layer, anchor_, exchange_->anchor_slot(), 0, true);
}

void Forward::attend_anchor(int layer) {
  if (anchor_.count() == 0) return;
  runner_->attend_and_feed_forward(layer, anchor_,
                                   {.visible = exchange_->visible_to_anchor(),
                                    .causal = {exchange_->anchor_slot(), static_cast<int>(anchor_.count())}});
}

void Forward::attend_block(int layer, int own) {
  runner_->attend_and_feed_forward(
      layer, block_rows(own),
      {.visible = exchange_->visible_to_block(blocks_[static_cast<std::size_t>(own)].number),
       .causal = cached(layer, own)});
}

void Forward::attend_query(int layer) {
  device_.mark(Phase::query);
  const std::int64_t rows = current_query_.count();
  const QueryTables& tables = rows == 1 ? decode_tables_ : question_tables_;
  const auto own_count = static_cast<std::size_t>(own_blocks());
  device_.attention(
      {.shape = shape_,
       .query = current_query_.query,
       .visible = std::span(cached_).subspan(static_cast<std::size_t>(layer) * own_count, own_count),
       .causal = {query_slot(layer), owns_query_keys_ ? query_tokens_stored_ + static_cast<int>(rows) : 0},
       .causal_before = query_tokens_stored_,
       .output = tables.own_output,
       .log_sum_exp = tables.own_log_sum_exp});
  device_.mark(Phase::communication);
  device_.wait_for(setup_.communicator.start_all_gather(device_, tables.parts));
  device_.mark(Phase::query);
  const View merged = merged_.view(device_.compute_type(), rows, shape_.query_columns());
  device_.merge(shape_, tables.partials, merged);
  runner_->finish_attended(layer, current_query_.hidden, merged);
}

ConstView Forward::last_logits() {
  device_.mark(Phase::head);
  const int hidden = model_.config.hidden;
  const View normed = normed_last_.view(device_.compute_type(), 1, hidden);
  const View logits = logits_.view(DataType::f32, 1, model_.config.vocabulary);
  device_.rms_norm(current_query_.hidden.row_range(current_query_.count() - 1, 1),
                   model_.final_norm.view(DataType::f32, 1, hidden), static_cast<float>(model_.config.rms_epsilon),
                   normed);
  device_.linear(normed, *model_.head, logits, false);
  return logits;
}

std::vector<std::int32_t> Forward::selection() {
  const std::int64_t slots = model_.config.layers * static_cast<std::int64_t>(own_blocks()) * shape_.kv_heads;
  const auto length = static_cast<std::size_t>(partition_.passing_length);
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(slots) * length, -1);
  for (int layer = 0; layer + 1 < model_.config.layers; ++layer) {
    for (int own = 0; own < own_blocks(); ++own) {
      const View positions = positions_of(layer, own);
      if (positions.empty()) continue;
      const auto first = (static_cast<std::size_t>(layer) * blocks_.size() + static_cast<std::size_t>(own)) *
                         static_cast<std::size_t>(shape_.kv_heads);
      std::int32_t* block_chosen = chosen.data() + first * length;
      device_.download(positions, {reinterpret_cast<std::byte*>(block_chosen), DataType::i32, Space::host,
                                   positions.rows, positions.columns, partition_.passing_length});
    }
  }
  device_.synchronize();
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto own = static_cast<int>(i / length / static_cast<std::size_t>(shape_.kv_heads) % blocks_.size());
    if (chosen[i] >= 0) chosen[i] += static_cast<std::int32_t>(block(own).begin);
  }
  return chosen;
}

bool Forward::selects(int layer, int own) const {
  return !last_layer(layer) && block(own).passing > 0 && !partition_.passes_everything();
}

SlotRange Forward::cached(int layer, int own) const {
  return cached_[static_cast<std::size_t>(layer) * blocks_.size() + static_cast<std::size_t>(own)];
}

View Forward::scores_of(int own) const { return scores_.view(DataType::f32, block_rows(own).count(), shape_.kv_heads); }

View Forward::positions_of(int layer, int own) const {
  const std::int64_t slot = (setup_.keep_selection ? layer : 0) * own_blocks() + own;
  View positions = positions_.view(DataType::i32, shape_.kv_heads, partition_.passing_capacity,
                                   bytes_for(DataType::i32, slot * shape_.kv_heads, partition_.passing_capacity));
  positions.columns = block(own).passing;
  return positions;
}

Slot Forward::query_slot(int layer) const { return query_store_->slot(owns_query_keys_ ? layer : 0, 0); }

}  // namespace apb
