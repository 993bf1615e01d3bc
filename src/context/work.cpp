#include "context/work.hpp"

#include <numeric>
#include <vector>

#include "context/methods/ulysses.hpp"
#include "context/query_parts.hpp"
#include "device/key_value_store.hpp"

namespace apb {
namespace {

/// Pairs of a row and a key that it sees, when row i of `rows` sees `before` + i + 1.
double causal_pairs(std::int64_t before, std::int64_t rows) {
  return static_cast<double>(rows) * static_cast<double>(before) +
         static_cast<double>(rows) * static_cast<double>(rows + 1) / 2.0;
}

class Counter {
 public:
  Counter(const ModelConfig& config, std::size_t element)
      : config_(config), shape_(config.head_shape()), element_(static_cast<double>(element)) {}

  /// Norm, Q, K and V of rows; `keys_only`: what is computed of Q is not counted.
  void project(Phase phase, std::int64_t rows, int layers, bool keys_only) {
    const int columns = keys_only ? 2 * shape_.kv_heads * shape_.head_dim : shape_.qkv_columns();
    product(phase, rows, layers, columns, config_.hidden);
    move(phase, rows, layers, residual() + element_ * columns);
  }

  /// The product with the attention's output, added to the rows.
  void project_output(Phase phase, std::int64_t rows, int layers) {
    product(phase, rows, layers, config_.hidden, shape_.query_columns());
    move(phase, rows, layers, element_ * shape_.query_columns() + 2 * residual());
  }

  void feed_forward(Phase phase, std::int64_t rows, int layers) {
    product(phase, rows, layers, 3.0 * config_.intermediate, config_.hidden);
    move(phase, rows, layers, 3 * residual());
  }

  /// Rows that see `pairs` keys in all, `keys` different ones, with the heads of `shape`.
  void attend(Phase phase, const HeadShape& shape, std::int64_t rows, int layers, double pairs, double keys) {
    if (rows == 0) return;
    const double columns = shape.query_columns();
    of(phase).flops += layers * 4.0 * pairs * columns;
    of(phase).bytes +=
        layers * element_ * (2.0 * columns * static_cast<double>(rows) + 2.0 * shape.kv_heads * shape.head_dim * keys);
  }

  void head() {
    product(Phase::head, 1, 1, config_.vocabulary, config_.hidden);
    move(Phase::head, 1, 1, residual() + 4.0 * config_.vocabulary);
  }

  const PhaseWork& work() const { return work_; }

 private:
  Work& of(Phase phase) { return work_[static_cast<std::size_t>(phase)]; }
  double residual() const { return 4.0 * config_.hidden; }

  void product(Phase phase, std::int64_t rows, int layers, double outputs, double inputs) {
    if (rows == 0) return;
    of(phase).flops += layers * 2.0 * static_cast<double>(rows) * outputs * inputs;
    weights_read(phase, layers, outputs, inputs);
  }
  void weights_read(Phase phase, int layers, double outputs, double inputs) {
    of(phase).bytes += layers * element_ * outputs * inputs;
  }
  void move(Phase phase, std::int64_t rows, int layers, double bytes_a_row) {
    of(phase).bytes += layers * static_cast<double>(rows) * bytes_a_row;
  }

  const ModelConfig& config_;
  HeadShape shape_;
  double element_;
  PhaseWork work_{};
};

/// Whether every row sees all that stands before it.
bool is_exact(const Partition& partition) {
  return partition.method != Method::apb && partition.method != Method::star;
}

std::int64_t context_tokens(const Partition& partition, int rank) {
  std::int64_t tokens = 0;
  for (const int number : partition.blocks_of(rank)) {
    tokens += partition.blocks[static_cast<std::size_t>(number)].length();
  }
  return tokens;
}

/// What a rank attends for: all heads over its own blocks or, with ulysses, some heads over all blocks.
struct Share {
  HeadShape shape;
  std::vector<int> blocks;
  std::int64_t context = 0;  // tokens that query rows see
  bool sees_query = false;
};

Share share_of(const ModelConfig& config, const Partition& partition, int rank) {
  if (partition.method != Method::ulysses) {
    return {config.head_shape(), partition.blocks_of(rank), context_tokens(partition, rank),
            partition.last_rank() == rank};
  }
  std::vector<int> all(partition.blocks.size());
  std::iota(all.begin(), all.end(), 0);
  return {ulysses_share(config.head_shape(), partition.ranks), all, partition.lengths.context, true};
}

/// All heads over all blocks.
Share whole(const ModelConfig& config, const Partition& partition) {
  std::vector<int> all(partition.blocks.size());
  std::iota(all.begin(), all.end(), 0);
  return {config.head_shape(), all, partition.lengths.context, true};
}

double query_pairs(const Share& share, std::int64_t rows, std::int64_t before) {
  return static_cast<double>(rows) * static_cast<double>(share.context) +
         (share.sees_query ? causal_pairs(before, rows) : 0.0);
}

/// `rows` query rows behind `before` earlier ones.
void count_query(Counter& counter, const ModelConfig& config, std::int64_t rows, std::int64_t before,
                 const Share& share) {
  const std::int64_t keys = share.context + (share.sees_query ? before + rows : 0);
  counter.project(Phase::query, rows, config.layers, false);
  counter.attend(Phase::query, share.shape, rows, config.layers, query_pairs(share, rows, before),
                 static_cast<double>(keys));
  counter.project_output(Phase::query, rows, config.layers);
  counter.feed_forward(Phase::query, rows, config.layers);
}

void count_context_attention(Counter& counter, const ModelConfig& config, const Partition& partition,
                             const Share& share, const AnchorSlice& slice) {
  const int layers = config.layers - 1;
  counter.attend(Phase::attention, share.shape, slice.length(), layers, causal_pairs(slice.begin, slice.length()),
                 slice.end);
  for (const int number : share.blocks) {
    const Block& block = partition.blocks[static_cast<std::size_t>(number)];
    const std::int64_t before = seen_before(partition, number);
    counter.attend(Phase::attention, share.shape, block.length(), layers, causal_pairs(before, block.length()),
                   static_cast<double>(before + block.length()));
  }
}

/// Context and anchor rows.
void count_rows(Counter& counter, int layers, std::int64_t context_rows, std::int64_t anchor_rows) {
  const std::int64_t rows = context_rows + anchor_rows;
  counter.project(Phase::projection, rows, layers - 1, false);
  counter.project(Phase::projection, context_rows, 1, true);
  counter.project_output(Phase::projection, rows, layers - 1);
  counter.feed_forward(Phase::feed_forward, rows, layers - 1);
}

}  // namespace

std::int64_t seen_before(const Partition& partition, int number) {
  if (is_exact(partition)) return partition.blocks[static_cast<std::size_t>(number)].begin;
  if (number == 0) return 0;
  return partition.anchor_length +
         std::accumulate(partition.blocks.begin(), partition.blocks.begin() + number, std::int64_t{0},
                         [](std::int64_t sum, const Block& block) { return sum + block.passing; });
}

PhaseWork prefill_work(const ModelConfig& config, const Partition& partition, int rank, std::size_t element) {
  Counter counter(config, element);
  const Share share = share_of(config, partition, rank);
  const AnchorSlice slice = partition.anchor_slice(rank);
  count_rows(counter, config.layers, context_tokens(partition, rank), slice.length());
  count_context_attention(counter, config, partition, share, slice);
  count_query(counter, config, partition.lengths.query, 0, share);
  if (rank == 0) counter.head();
  return counter.work();
}

PhaseWork decode_work(const ModelConfig& config, const Partition& partition, int rank, int tokens,
                      std::size_t element) {
  Counter counter(config, element);
  for (int token = 0; token < tokens; ++token) {
    count_query(counter, config, 1, partition.lengths.query + token, share_of(config, partition, rank));
    if (rank == 0) counter.head();
  }
  return counter.work();
}

double prefill_flops(const ModelConfig& config, const Partition& partition) {
  Counter counter(config, 0);
  count_rows(counter, config.layers, partition.lengths.context, partition.anchor_length);
  count_context_attention(counter, config, partition, whole(config, partition), {0, partition.anchor_length});
  count_query(counter, config, partition.lengths.query, 0, whole(config, partition));
  counter.head();
  const auto& work = counter.work();
  return std::accumulate(work.begin(), work.end(), 0.0,
                         [](double sum, const Work& phase) { return sum + phase.flops; });
}

double prefill_pairs(const ModelConfig& config, const Partition& partition, int rank) {
  const Share share = share_of(config, partition, rank);
  const AnchorSlice slice = partition.anchor_slice(rank);
  double context = causal_pairs(slice.begin, slice.length());
  for (const int number : share.blocks) {
    const std::int64_t rows = partition.blocks[static_cast<std::size_t>(number)].length();
    context += causal_pairs(seen_before(partition, number), rows);
  }
  return share.shape.heads *
         ((config.layers - 1) * context + config.layers * query_pairs(share, partition.lengths.query, 0));
}

double full_prefill_pairs(const ModelConfig& config, const DocumentLengths& lengths) {
  const double query = causal_pairs(lengths.context, lengths.query);
  return config.heads * ((config.layers - 1) * causal_pairs(0, lengths.context) + config.layers * query);
}

double prefill_bytes_sent(const Device& device, const ModelConfig& config, const Partition& partition) {
  const HeadShape shape = config.head_shape();
  const double element = static_cast<double>(size_of(device.compute_type()));
  const auto slot = [&](int capacity) { return static_cast<double>(device.slot_bytes(capacity, shape)); };
  const double exchanges = config.layers - 1;
  double part = 0.0;  // to each of the other ranks
  if (partition.method == Method::ring) {
    part = exchanges * partition.blocks_per_rank() * slot(slot_capacity(device, partition.blocks.front().length()));
  } else if (partition.method == Method::ulysses) {
    const HeadShape share = ulysses_share(shape, partition.ranks);
    part = static_cast<double>(partition.most_rows()) * element *
           (config.layers * share.qkv_columns() + exchanges * share.query_columns());
  } else if (partition.has_exchange()) {
    const bool sharded = partition.anchor_placement == AnchorPlacement::sharded;
    part = exchanges * ((sharded ? slot(partition.anchor_capacity) : 0.0) +
                        partition.blocks_per_rank() * slot(partition.passing_capacity));
  }
  const double query = static_cast<double>(config.layers) * sizeof(float) *
                       static_cast<double>(query_part_elements(shape, partition.lengths.query));
  return (partition.ranks - 1) * (part + query);
}

PrefillCounts count_prefill(const Device& device, const ModelConfig& config, const Partition& partition) {
  PrefillCounts counts{.full_pairs = full_prefill_pairs(config, partition.lengths)};
  for (int rank = 0; rank < partition.ranks_used(); ++rank) {
    counts.pairs.push_back(prefill_pairs(config, partition, rank));
    counts.bytes_sent.push_back(prefill_bytes_sent(device, config, partition));
  }
  return counts;
}

}  // namespace apb
