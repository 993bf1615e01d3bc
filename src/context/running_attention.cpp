#include "context/running_attention.hpp"

#include <algorithm>

namespace apb {
namespace {

std::size_t partial_bytes(const HeadShape& shape, std::int64_t rows) {
  return view_bytes(DataType::f32, rows, shape.query_columns() + shape.heads);
}

}  // namespace

std::size_t running_attention_bytes(const HeadShape& shape, std::int64_t rows, std::int64_t chunk) {
  return partial_bytes(shape, rows) + partial_bytes(shape, chunk);
}

RunningAttention::RunningAttention(Device& device, LayerRunner& runner, const HeadShape& shape,
                                   const std::vector<OwnBlock>& blocks)
    : device_(device), runner_(runner), shape_(shape), blocks_(blocks) {
  std::int64_t rows = 0;
  for (const OwnBlock& own : blocks) rows += own.rows.count();
  merged_ = device.allocate(partial_bytes(shape, rows));
  further_ = device.allocate(partial_bytes(shape, runner.chunk()));
  const View outputs = merged_.view(DataType::f32, rows, shape.query_columns());
  const View log_sum_exps =
      merged_.view(DataType::f32, rows, shape.heads, view_bytes(DataType::f32, rows, shape.query_columns()));
  std::int64_t before = 0;
  for (const OwnBlock& own : blocks) {
    first_chunk_.push_back(outputs_.size());
    for (std::int64_t first = 0; first < own.rows.count(); first += runner.chunk()) {
      const std::int64_t count = std::min(runner.chunk(), own.rows.count() - first);
      outputs_.push_back(outputs.row_range(before + first, count));
      log_sum_exps_.push_back(log_sum_exps.row_range(before + first, count));
      merges_.push_back({outputs_.back(), log_sum_exps_.back()});
    }
    before += own.rows.count();
  }
}

template <typename Visit>
void RunningAttention::for_each_chunk(int own, const Visit& visit) {
  const Rows& rows = blocks_[static_cast<std::size_t>(own)].rows;
  std::size_t number = first_chunk_[static_cast<std::size_t>(own)];
  for (std::int64_t first = 0; first < rows.count() && !runner_.stop_requested(); first += runner_.chunk(), ++number) {
    visit(Chunk{first, std::min(runner_.chunk(), rows.count() - first)}, number);
  }
}

void RunningAttention::begin(int own, std::span<const SlotRange> visible, SlotRange causal) {
  const Rows& rows = blocks_[static_cast<std::size_t>(own)].rows;
  for_each_chunk(own, [&](const Chunk& chunk, std::size_t number) {
    device_.attention({.shape = shape_,
                       .query = rows.query.row_range(chunk.first, chunk.count),
                       .visible = visible,
                       .causal = causal,
                       .causal_before = chunk.first,
                       .output = outputs_[number],
                       .log_sum_exp = log_sum_exps_[number]});
  });
}

void RunningAttention::add(int own, std::span<const SlotRange> visible) {
  if (visible.empty()) return;
  const Rows& rows = blocks_[static_cast<std::size_t>(own)].rows;
  for_each_chunk(own, [&](const Chunk& chunk, std::size_t number) {
    const View output = further_.view(DataType::f32, chunk.count, shape_.query_columns());
    const View log_sum_exp = further_.view(DataType::f32, chunk.count, shape_.heads,
                                           view_bytes(DataType::f32, chunk.count, shape_.query_columns()));
    device_.attention({.shape = shape_,
                       .query = rows.query.row_range(chunk.first, chunk.count),
                       .visible = visible,
                       .output = output,
                       .log_sum_exp = log_sum_exp});
    device_.add_partial(shape_, {output, log_sum_exp}, outputs_[number], log_sum_exps_[number]);
  });
}

void RunningAttention::finish(int layer, int own) {
  const Rows& rows = blocks_[static_cast<std::size_t>(own)].rows;
  for_each_chunk(own, [&](const Chunk& chunk, std::size_t number) {
    const View attended = runner_.attended(chunk.count);
    device_.mark(Phase::attention);
    device_.merge(shape_, std::span(merges_).subspan(number, 1), attended);
    runner_.finish_chunk(layer, rows.hidden.row_range(chunk.first, chunk.count), attended);
  });
}

}  // namespace apb
