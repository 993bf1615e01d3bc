#include "context/forward.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "context/block_rows.hpp"
#include "context/memory.hpp"
#include "context/query_parts.hpp"
#include "model/rope.hpp"

namespace apb {
Forward::Forward(const Setup& setup)
    : setup_(setup),
      device_(setup.device),
      model_(setup.model),
      partition_(setup.partition),
      shape_(setup.model.config.head_shape()),
      rank_(setup.communicator.rank()) {
  device_.reserve(
      shape_, partition_.blocks.front().length(),
      memory_needed(device_, model_, partition_, setup.options, rank_, setup.keep_selection, setup.overlap));
  const auto& lengths = partition_.lengths;
  const std::int64_t positions = lengths.context + lengths.query_capacity();
  const auto angles = rotary_table(model_.config, positions);
  rotary_ = device_.allocate(view_bytes(DataType::f32, positions, shape_.head_dim));
  const View rotary = rotary_.view(DataType::f32, positions, shape_.head_dim);
  device_.upload(host_view(angles.data(), positions, shape_.head_dim), rotary);
  runner_.emplace(device_, model_, rotary, setup.stop_requested);
  embedder_.emplace(device_, model_, longest_rows(partition_, rank_));
  method_ = make_context_method({.device = device_,
                                 .communicator = setup.communicator,
                                 .model = model_,
                                 .partition = partition_,
                                 .options = setup.options,
                                 .runner = *runner_,
                                 .document = setup.document,
                                 .keep_selection = setup.keep_selection,
                                 .overlap = setup.overlap});
  reserve_query_rows();
  normed_last_ = device_.allocate(view_bytes(device_.compute_type(), 1, model_.config.hidden));
  if (model_.head) logits_ = device_.allocate(view_bytes(DataType::f32, 1, model_.config.vocabulary));
}

void Forward::reserve_query_rows() {
  const std::int64_t rows = partition_.lengths.longest_query();
  const DataType type = device_.compute_type();
  hidden_ = device_.allocate(view_bytes(DataType::f32, rows, model_.config.hidden));
  queries_ = device_.allocate(view_bytes(type, rows, shape_.query_columns()));
  merged_ = device_.allocate(view_bytes(type, rows, shape_.query_columns()));
  query_rows_ = {.hidden = hidden_.view(DataType::f32, rows, model_.config.hidden),
                 .query = queries_.view(type, rows, shape_.query_columns()),
                 .first_position = partition_.lengths.context};
  question_parts_ = device_.allocate(view_bytes(DataType::f32, partition_.ranks, query_part_elements(shape_, rows)));
  decode_parts_ = device_.allocate(view_bytes(DataType::f32, partition_.ranks, query_part_elements(shape_, 1)));
  decode_tables_ = query_tables(decode_parts_, 1);
}

/// The partial outputs of all ranks, and of this one what it does not attend for: heads that have seen nothing.
Forward::QueryTables Forward::query_tables(const Buffer& parts, std::int64_t rows) {
  const std::int64_t outputs = rows * shape_.query_columns();
  const std::int64_t part = query_part_elements(shape_, rows);
  QueryTables tables;
  tables.parts = parts.view(DataType::f32, partition_.ranks, part);
  for (int rank = 0; rank < partition_.ranks; ++rank) {
    const std::size_t offset = view_bytes(DataType::f32, rank, part);
    const View output = parts.view(DataType::f32, rows, shape_.query_columns(), offset);
    const View log_sum_exp =
        parts.view(DataType::f32, rows, shape_.heads, offset + view_bytes(DataType::f32, 1, outputs));
    tables.partials.push_back({output, log_sum_exp});
    if (rank == rank_) {
      tables.own_output = output;
      tables.own_log_sum_exp = log_sum_exp;
    }
  }
  if (method_->query_share(0).shape.heads < shape_.heads) {
    const std::vector<float> zeros(static_cast<std::size_t>(outputs), 0.0F);
    const std::vector<float> unseen(static_cast<std::size_t>(rows * shape_.heads),
                                    -std::numeric_limits<float>::infinity());
    device_.upload(host_view(zeros.data(), rows, shape_.query_columns()), tables.own_output);
    device_.upload(host_view(unseen.data(), rows, shape_.heads), tables.own_log_sum_exp);
  }
  return tables;
}

void Forward::prefill(std::span<const std::int32_t> context, std::span<const std::int32_t> query) {
  device_.mark(Phase::embed);
  method_->embed(*embedder_, context, query);
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
  question_tables_ = query_tables(question_parts_, rows);
  query_tokens_stored_ = 0;
  embedder_->embed(query, current_query_.hidden);
}

void Forward::decode(std::int32_t token) {
  current_query_.hidden = query_rows_.hidden.row_range(0, 1);
  current_query_.query = query_rows_.query.row_range(0, 1);
  current_query_.first_position = partition_.lengths.context + query_tokens_stored_;
  embedder_->embed(std::span(&token, 1), current_query_.hidden);
  run_layers(false);
  ++query_tokens_stored_;
}

void Forward::run_layers(bool with_context) {
  if (!with_context) setup_.communicator.enter_stage("decoding");
  for (int layer = 0; layer < model_.config.layers; ++layer) {
    if (with_context) {
      setup_.communicator.enter_stage("prefill, layer {} of {}", layer + 1, model_.config.layers);
    }
    project_query(layer);
    if (with_context) method_->run_layer(layer, current_query_.query);
    attend_query(layer);
    if (with_context || last_layer(layer)) leave_if_interrupted();
  }
}

/// A rank that has been told to stop computes no more, but takes part in every exchange up to here, where all ranks
/// learn of it and leave together.
void Forward::leave_if_interrupted() {
  device_.mark(Phase::communication);
  if (setup_.communicator.max(setup_.stop_requested() ? 1 : 0) == 0) return;
  device_.synchronize();  // what is still enqueued reads our memory
  throw Interrupted();
}

void Forward::project_query(int layer) {
  device_.mark(Phase::query);
  method_->project_query(layer, current_query_, query_tokens_stored_);
}

void Forward::attend_query(int layer) {
  device_.mark(Phase::query);
  const std::int64_t rows = current_query_.count();
  const QueryTables& tables = rows == 1 ? decode_tables_ : question_tables_;
  const QueryShare share = method_->query_share(layer);
  const HeadShape& heads = share.shape;
  const std::int64_t first_column = std::int64_t{share.first_head} * heads.head_dim;
  device_.attention({.shape = heads,
                     .query = current_query_.query.column_range(first_column, heads.query_columns()),
                     .visible = share.context,
                     .causal = {share.query, share.sees_query ? query_tokens_stored_ + static_cast<int>(rows) : 0},
                     .causal_before = query_tokens_stored_,
                     .output = tables.own_output.column_range(first_column, heads.query_columns()),
                     .log_sum_exp = tables.own_log_sum_exp.column_range(share.first_head, heads.heads)});
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

}  // namespace apb
