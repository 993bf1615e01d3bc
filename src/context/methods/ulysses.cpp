#include "context/methods/ulysses.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "error.hpp"

namespace apb {

HeadShape ulysses_share(const HeadShape& shape, int ranks) {
  if (shape.heads % ranks != 0) {
    fail("--method ulysses cannot share {} query heads out to {} ranks: use a number of ranks that divides them",
         shape.heads, ranks);
  }
  const int heads = shape.heads / ranks;
  const int heads_for_each_kv_head = std::gcd(heads, shape.heads / shape.kv_heads);
  return {.heads = heads, .kv_heads = heads / heads_for_each_kv_head, .head_dim = shape.head_dim};
}

UlyssesMethod::UlyssesMethod(const Setup& setup)
    : device_(setup.device),
      communicator_(setup.communicator),
      runner_(setup.runner),
      partition_(setup.partition),
      shape_(setup.model.config.head_shape()),
      share_(ulysses_share(shape_, setup.communicator.size())),
      layers_(setup.model.config.layers),
      rows_(setup.device, setup.model.config, setup.partition, setup.communicator.rank()),
      store_(setup.device, share_, layers_,
             std::array{static_cast<int>(setup.partition.lengths.context), setup.partition.lengths.query_capacity()}),
      all_heads_(setup.device, setup.runner, setup.model.config, setup.partition.lengths, false),
      cached_(cached_blocks(store_, layers_, {static_cast<int>(setup.partition.lengths.context)})),
      longest_rows_(setup.partition.most_rows()) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(partition_.ranks), 0);
  for (const Block& block : partition_.blocks) {
    auto& next = rows[static_cast<std::size_t>(block.rank)];
    first_row_.push_back(next);
    next += block.length();
  }
  const DataType type = device_.compute_type();
  query_ = device_.allocate(view_bytes(type, partition_.lengths.context, share_.query_columns()));
  const std::size_t parts = view_bytes(type, partition_.ranks * longest_rows_, share_.qkv_columns());
  send_ = device_.allocate(parts);
  receive_ = device_.allocate(parts);
  query_share_ = device_.allocate(view_bytes(type, runner_.chunk(), share_.qkv_columns()));
}

void UlyssesMethod::embed(Embedder& embedder, std::span<const std::int32_t> context,
                          std::span<const std::int32_t> /*query*/) {
  rows_.embed_blocks(embedder, context);
}

void UlyssesMethod::run_layer(int layer, ConstView /*query*/) {
  device_.mark(Phase::projection);
  project(layer);
  device_.mark(Phase::communication);
  const int columns = share_.qkv_columns();
  device_.wait_for(communicator_.start_all_to_all(device_, part_views(send_, columns), part_views(receive_, columns)));
  device_.mark(Phase::attention);
  store(layer);
  if (layer + 1 == layers_) return;
  attend(layer);
  device_.mark(Phase::communication);
  const int attended = share_.query_columns();
  device_.wait_for(
      communicator_.start_all_to_all(device_, part_views(send_, attended), part_views(receive_, attended)));
  finish(layer);
}

void UlyssesMethod::project(int layer) {
  std::int64_t row = 0;
  for (const OwnBlock& own : rows_.blocks()) {
    for (std::int64_t first = 0; first < own.rows.count() && !runner_.stop_requested(); first += runner_.chunk()) {
      const std::int64_t count = std::min(runner_.chunk(), own.rows.count() - first);
      deal_heads(runner_.project_qkv(layer, own.rows.hidden.row_range(first, count)), row + first);
    }
    row += own.rows.count();
  }
}

void UlyssesMethod::deal_heads(ConstView qkv, std::int64_t first_row) {
  for (int rank = 0; rank < partition_.ranks; ++rank) {
    copy_share(rank, qkv, part_rows(send_, rank, first_row, qkv.rows, share_.qkv_columns()));
  }
}

/// The columns of a rank's query heads, and of the KV heads that they belong to.
void UlyssesMethod::copy_share(int rank, ConstView qkv, View out) {
  const int dim = shape_.head_dim;
  const int group = shape_.heads / shape_.kv_heads;
  const int heads_for_each_kv_head = share_.heads / share_.kv_heads;
  const int first_head = rank * share_.heads;
  device_.copy(qkv.column_range(first_head * dim, share_.query_columns()), out.column_range(0, share_.query_columns()));
  for (int own = 0; own < share_.kv_heads; ++own) {
    const int kv_head = (first_head + own * heads_for_each_kv_head) / group;
    const int key = shape_.heads + kv_head;
    const int own_key = share_.heads + own;
    device_.copy(qkv.column_range(key * dim, dim), out.column_range(own_key * dim, dim));
    device_.copy(qkv.column_range((key + shape_.kv_heads) * dim, dim),
                 out.column_range((own_key + share_.kv_heads) * dim, dim));
  }
}

void UlyssesMethod::project_query(int layer, const Rows& query, int stored) {
  const auto keep_share = [&](std::int64_t first_row, ConstView qkv) {
    const View own = query_share_.view(device_.compute_type(), qkv.rows, share_.qkv_columns());
    copy_share(communicator_.rank(), qkv, own);
    device_.rotate_and_store(share_, own, runner_.head_norms(layer), runner_.rotary(), query.first_position + first_row,
                             {}, store_.slot(layer, 1), stored + static_cast<int>(first_row));
  };
  all_heads_.project(layer, query, stored, keep_share);
}

void UlyssesMethod::store(int layer) {
  const View query = query_.view(device_.compute_type(), partition_.lengths.context, share_.query_columns());
  for (std::size_t number = 0; number < partition_.blocks.size(); ++number) {
    const Block& block = partition_.blocks[number];
    const View qkv = part_rows(receive_, block.rank, first_row_[number], block.length(), share_.qkv_columns());
    device_.rotate_and_store(share_, qkv, runner_.head_norms(layer), runner_.rotary(), block.begin,
                             query.row_range(block.begin, block.length()), store_.slot(layer, 0),
                             static_cast<int>(block.begin));
  }
}

void UlyssesMethod::attend(int layer) {
  const View query = query_.view(device_.compute_type(), partition_.lengths.context, share_.query_columns());
  for (std::size_t number = 0; number < partition_.blocks.size() && !runner_.stop_requested(); ++number) {
    const Block& block = partition_.blocks[number];
    device_.attention(
        {.shape = share_,
         .query = query.row_range(block.begin, block.length()),
         .causal = cached_[static_cast<std::size_t>(layer)],
         .causal_before = block.begin,
         .output = part_rows(send_, block.rank, first_row_[number], block.length(), share_.query_columns())});
  }
}

void UlyssesMethod::finish(int layer) {
  const int columns = share_.query_columns();
  std::int64_t row = 0;
  for (const OwnBlock& own : rows_.blocks()) {
    for (std::int64_t first = 0; first < own.rows.count() && !runner_.stop_requested(); first += runner_.chunk()) {
      const std::int64_t count = std::min(runner_.chunk(), own.rows.count() - first);
      const View attended = runner_.attended(count);
      for (int rank = 0; rank < partition_.ranks; ++rank) {
        device_.copy(part_rows(receive_, rank, row + first, count, columns),
                     attended.column_range(static_cast<std::int64_t>(rank) * columns, columns));
      }
      runner_.finish_chunk(layer, own.rows.hidden.row_range(first, count), attended);
    }
    row += own.rows.count();
  }
}

/// Rows of the part that goes to, or comes from, a rank.
View UlyssesMethod::part_rows(const Buffer& parts, int rank, std::int64_t first, std::int64_t count,
                              int columns) const {
  return parts.view(device_.compute_type(), partition_.ranks * longest_rows_, columns)
      .row_range(rank * longest_rows_ + first, count);
}

/// The parts as the communicator wants them.
View UlyssesMethod::part_views(const Buffer& parts, int columns) const {
  const std::size_t bytes = view_bytes(device_.compute_type(), longest_rows_, columns);
  return parts.view(DataType::i32, partition_.ranks, static_cast<std::int64_t>(bytes / size_of(DataType::i32)));
}

QueryShare UlyssesMethod::query_share(int layer) const {
  return {.shape = share_,
          .first_head = communicator_.rank() * share_.heads,
          .context = std::span(cached_).subspan(static_cast<std::size_t>(layer), 1),
          .query = store_.slot(layer, 1),
          .sees_query = true};
}

}  // namespace apb
