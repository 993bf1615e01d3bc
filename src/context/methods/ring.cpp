#include "context/methods/ring.hpp"

#include <algorithm>

namespace apb {
namespace {

/// Every rank's K/V of a layer is laid out alike, so that it can travel as it stands.
std::vector<int> travelling_capacities(const Partition& partition) {
  return std::vector<int>(static_cast<std::size_t>(partition.blocks_per_rank()), partition.blocks.front().length());
}

}  // namespace

RingMethod::RingMethod(const Setup& setup)
    : device_(setup.device),
      communicator_(setup.communicator),
      runner_(setup.runner),
      partition_(setup.partition),
      shape_(setup.model.config.head_shape()),
      layers_(setup.model.config.layers),
      rows_(setup.device, setup.model.config, setup.partition, setup.communicator.rank()),
      store_(setup.device, shape_, layers_, travelling_capacities(setup.partition)),
      query_cache_(setup.device, setup.runner, setup.model.config, setup.partition.lengths,
                   setup.partition.last_rank() == setup.communicator.rank()),
      cached_(cached_blocks(store_, layers_, rows_.lengths())) {
  if (communicator_.size() > 1) {
    for (auto& buffer : travelling_) buffer = device_.allocate(view_bytes(DataType::i32, 1, store_.layer(0).columns));
  }
  reserve_tables();
}

void RingMethod::reserve_tables() {
  std::int64_t rows = 0;
  for (const OwnBlock& own : rows_.blocks()) rows += own.rows.count();
  const std::int64_t columns = shape_.query_columns();
  merged_ = device_.allocate(view_bytes(DataType::f32, rows, columns + shape_.heads));
  partial_ = device_.allocate(view_bytes(DataType::f32, runner_.chunk(), columns + shape_.heads));
  const View outputs = merged_.view(DataType::f32, rows, columns);
  const View log_sum_exps = merged_.view(DataType::f32, rows, shape_.heads, view_bytes(DataType::f32, rows, columns));
  std::int64_t first = 0;
  for (const OwnBlock& own : rows_.blocks()) {
    outputs_.push_back(outputs.row_range(first, own.rows.count()));
    log_sum_exps_.push_back(log_sum_exps.row_range(first, own.rows.count()));
    first += own.rows.count();
    first_chunk_.push_back(chunks_.size());
    for (std::int64_t row = 0; row < own.rows.count(); row += runner_.chunk()) {
      const std::int64_t count = std::min(runner_.chunk(), own.rows.count() - row);
      chunks_.push_back({outputs_.back().row_range(row, count), log_sum_exps_.back().row_range(row, count)});
    }
  }
  const int ranks = communicator_.size();
  for (int step = 1; step < ranks; ++step) {
    const int source = (communicator_.rank() + ranks - step) % ranks;
    for (const OwnBlock& own : rows_.blocks()) {
      std::vector<SlotRange> visible;
      for (const int number : partition_.blocks_of(source)) {
        const Block& block = partition_.blocks[static_cast<std::size_t>(number)];
        const Slot slot = store_.slot_in(travelling(step).data, block.index);
        if (number < own.number) visible.push_back({slot, block.length()});
      }
      seen_.push_back({visible});
    }
  }
}

void RingMethod::embed(Embedder& embedder, std::span<const std::int32_t> context,
                       std::span<const std::int32_t> /*query*/) {
  rows_.embed_blocks(embedder, context);
}

void RingMethod::project_query(int layer, const Rows& query, int stored) { query_cache_.project(layer, query, stored); }

void RingMethod::run_layer(int layer, ConstView /*query*/) {
  const bool last = layer + 1 == layers_;
  device_.mark(Phase::projection);
  for (int own = 0; own < own_blocks(); ++own)
    runner_.project(layer, block_rows(own), store_.slot(layer, own), 0, !last);
  if (last) return;
  for (int step = 0; step < communicator_.size(); ++step) {
    device_.mark(Phase::communication);
    const auto transfer = start_step(layer, step);
    device_.mark(Phase::attention);
    for (int own = 0; own < own_blocks(); ++own) attend(layer, own, step);
    if (transfer == nullptr) continue;
    device_.mark(Phase::communication);
    device_.wait_for(transfer);
  }
  for (int own = 0; own < own_blocks(); ++own) finish(layer, own);
}

/// What this rank holds goes on to the next one, which attends to it in its next step.
std::shared_ptr<Transfer> RingMethod::start_step(int layer, int step) {
  if (step + 1 == communicator_.size()) return nullptr;
  return communicator_.start_shift(device_, step == 0 ? store_.layer(layer) : travelling(step), travelling(step + 1));
}

void RingMethod::attend(int layer, int own, int step) {
  const auto index = static_cast<std::size_t>(own);
  const Rows& rows = block_rows(own);
  const auto layer_cache =
      std::span(cached_).subspan(static_cast<std::size_t>(layer * own_blocks()), rows_.blocks().size());
  AttentionArguments seen{.shape = shape_};
  if (step == 0) {
    seen.visible = layer_cache.first(index);  // own blocks are in document order
    seen.causal = layer_cache[index];
  } else {
    seen.visible = seen_[static_cast<std::size_t>((step - 1) * own_blocks()) + index].visible;
    if (seen.visible.empty()) return;
  }
  for (std::int64_t first = 0; first < rows.count() && !runner_.stop_requested(); first += runner_.chunk()) {
    const std::int64_t count = std::min(runner_.chunk(), rows.count() - first);
    const View output = outputs_[index].row_range(first, count);
    const View log_sum_exp = log_sum_exps_[index].row_range(first, count);
    const View partial_output = partial_.view(DataType::f32, count, shape_.query_columns());
    const View partial_log_sum_exp =
        partial_.view(DataType::f32, count, shape_.heads, view_bytes(DataType::f32, count, shape_.query_columns()));
    seen.query = rows.query.row_range(first, count);
    seen.causal_before = first;
    seen.output = step == 0 ? output : partial_output;
    seen.log_sum_exp = step == 0 ? log_sum_exp : partial_log_sum_exp;
    device_.attention(seen);
    if (step > 0) device_.add_partial(shape_, {partial_output, partial_log_sum_exp}, output, log_sum_exp);
  }
}

void RingMethod::finish(int layer, int own) {
  const Rows& rows = block_rows(own);
  std::size_t chunk = first_chunk_[static_cast<std::size_t>(own)];
  for (std::int64_t first = 0; first < rows.count() && !runner_.stop_requested(); first += runner_.chunk(), ++chunk) {
    const std::int64_t count = std::min(runner_.chunk(), rows.count() - first);
    const View attended = runner_.attended(count);
    device_.mark(Phase::attention);
    device_.merge(shape_, std::span(chunks_).subspan(chunk, 1), attended);
    runner_.finish_chunk(layer, rows.hidden.row_range(first, count), attended);
  }
}

/// Where the K/V attended to in a step behind the first is received.
View RingMethod::travelling(int step) const {
  const View layer = store_.layer(0);
  return travelling_.at(static_cast<std::size_t>(step % 2)).view(layer.type, layer.rows, layer.columns);
}

QueryShare RingMethod::query_share(int layer) const {
  return {.shape = shape_,
          .context = std::span(cached_).subspan(static_cast<std::size_t>(layer * own_blocks()), rows_.blocks().size()),
          .query = query_cache_.slot(layer),
          .sees_query = query_cache_.kept()};
}

}  // namespace apb
