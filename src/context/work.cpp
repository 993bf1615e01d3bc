#include "context/work.hpp"

#include <numeric>

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

  /// Rows that see `pairs` keys in all, `keys` different ones.
  void attend(Phase phase, std::int64_t rows, int layers, double pairs, double keys) {
    const double columns = shape_.query_columns();
    of(phase).flops += layers * 4.0 * pairs * columns;
    of(phase).bytes += layers * element_ *
                       (2.0 * columns * static_cast<double>(rows) + 2.0 * shape_.kv_heads * shape_.head_dim * keys);
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

/// Entries that blocks before this one pass on to it.
std::int64_t passed_before(const Partition& partition, int number) {
  return std::accumulate(partition.blocks.begin(), partition.blocks.begin() + number, std::int64_t{0},
                         [](std::int64_t sum, const Block& block) { return sum + block.passing; });
}

std::int64_t context_tokens(const Partition& partition, int rank) {
  std::int64_t tokens = 0;
  for (const int number : partition.blocks_of(rank)) {
    tokens += partition.blocks[static_cast<std::size_t>(number)].length();
  }
  return tokens;
}

/// `rows` query rows behind `before` earlier ones, on a rank with `tokens` context tokens.
void count_query(Counter& counter, const ModelConfig& config, std::int64_t rows, std::int64_t before,
                 std::int64_t tokens, bool owns_query_keys) {
  const auto seen = static_cast<double>(rows) * static_cast<double>(tokens);
  const double own = owns_query_keys ? causal_pairs(before, rows) : 0.0;
  const std::int64_t keys = tokens + (owns_query_keys ? before + rows : 0);
  counter.project(Phase::query, rows, config.layers, false);
  counter.attend(Phase::query, rows, config.layers, seen + own, static_cast<double>(keys));
  counter.project_output(Phase::query, rows, config.layers);
  counter.feed_forward(Phase::query, rows, config.layers);
}

void count_anchor_attention(Counter& counter, int layers, const AnchorSlice& slice) {
  counter.attend(Phase::attention, slice.length(), layers, causal_pairs(slice.begin, slice.length()), slice.end);
}

void count_block_attention(Counter& counter, int layers, const Partition& partition, int number) {
  const Block& block = partition.blocks[static_cast<std::size_t>(number)];
  const std::int64_t before = number == 0 ? 0 : partition.anchor_length + passed_before(partition, number);
  counter.attend(Phase::attention, block.length(), layers, causal_pairs(before, block.length()),
                 static_cast<double>(before + block.length()));
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

PhaseWork prefill_work(const ModelConfig& config, const Partition& partition, int rank, std::size_t element) {
  Counter counter(config, element);
  const AnchorSlice slice = partition.anchor_slice(rank);
  const std::int64_t tokens = context_tokens(partition, rank);
  count_rows(counter, config.layers, tokens, slice.length());
  count_anchor_attention(counter, config.layers - 1, slice);
  for (const int number : partition.blocks_of(rank)) {
    count_block_attention(counter, config.layers - 1, partition, number);
  }
  count_query(counter, config, partition.lengths.query, 0, tokens, partition.last_rank() == rank);
  if (rank == 0) counter.head();
  return counter.work();
}

PhaseWork decode_work(const ModelConfig& config, const Partition& partition, int rank, int tokens,
                      std::size_t element) {
  Counter counter(config, element);
  for (int token = 0; token < tokens; ++token) {
    count_query(counter, config, 1, partition.lengths.query + token, context_tokens(partition, rank),
                partition.last_rank() == rank);
    if (rank == 0) counter.head();
  }
  return counter.work();
}

double prefill_flops(const ModelConfig& config, const Partition& partition) {
  Counter counter(config, 0);
  const std::int64_t context = partition.lengths.context;
  count_rows(counter, config.layers, context, partition.anchor_length);
  count_anchor_attention(counter, config.layers - 1, {0, partition.anchor_length});
  for (int number = 0; number < partition.block_count(); ++number) {
    count_block_attention(counter, config.layers - 1, partition, number);
  }
  count_query(counter, config, partition.lengths.query, 0, context, true);
  counter.head();
  const auto& work = counter.work();
  return std::accumulate(work.begin(), work.end(), 0.0,
                         [](double sum, const Work& phase) { return sum + phase.flops; });
}

}  // namespace apb
