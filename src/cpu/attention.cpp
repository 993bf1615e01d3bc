#include "cpu/attention.hpp"

#include <omp.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/convert.hpp"
#include "cpu/key_value_layout.hpp"
#include "cpu/onednn.hpp"
#include "cpu/softmax.hpp"

namespace apb::cpu {
namespace {

/// Rows of a tile: one row for each position and query head of a KV head's group.
constexpr int tile_rows = 384;
/// Keys that a tile is multiplied with at a time; scores and weights of a tile then stay in the L2 cache.
constexpr int block_keys = 256;

/// Rounds up to a multiple of `unit`.
constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

/// Subnormal numbers are zero while it lives: they would be many times slower, and weigh nothing.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | flush_to_zero | subnormals_are_zero); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned flush_to_zero = 0x8000;
  static constexpr unsigned subnormals_are_zero = 0x0040;
  unsigned saved_;
};

/// One KV head's query rows [first, first + positions), as rows (position, head of the group) of a tile.
struct Tile {
  int kv_head = 0;
  std::int64_t first = 0;
  int positions = 0;
  int rows = 0;
};

/// A run of keys of one slot, and how many each row of the tile sees: row i sees `count` keys, with `causal` only
/// those up to `first_visible` + its position in the tile.
struct KeyBlock {
  const std::byte* keys = nullptr;    // [padded, head_dim]
  const std::byte* values = nullptr;  // [padded, head_dim]
  int count = 0;
  int padded = 0;  // count rounded up to whole key tiles
  bool causal = false;
  std::int64_t first_visible = 0;

  int seen_by(int position) const {
    if (!causal) return count;
    return static_cast<int>(std::clamp<std::int64_t>(first_visible + position, 0, count));
  }
};

/// What one thread works with: its own products and memory. Everything runs on this thread alone.
class Worker {
 public:
  Worker(DataType stored, DataType product) : stored_(stored), product_(product) {}

  void attend(const AttentionArguments& arguments, const Tile& tile);

 private:
  /// Row counts and key counts vary; more products than this are not kept.
  static constexpr std::size_t kept_products = 512;
  using ProductKey = std::tuple<int, int, int, bool>;  // rows, padded keys, head_dim, whether of weights and values

  void prepare(const HeadShape& shape, const Tile& tile);
  void stack_query(const AttentionArguments& arguments, const Tile& tile);
  void visit_slot(const AttentionArguments& arguments, const Tile& tile, const SlotRange& range, bool causal);
  void visit_block(const Tile& tile, const KeyBlock& block);
  void weigh_rows(const Tile& tile, const KeyBlock& block);
  void write_output(const AttentionArguments& arguments, const Tile& tile);
  const std::byte* in_product_type(const std::byte* source, int rows, Scratch& scratch);
  Product& product(int padded_keys, bool of_values);

  DataType stored_;   // type of query and slots
  DataType product_;  // type that products are computed in
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<ProductKey, Product> products_;

  int head_dim_ = 0;
  int group_ = 0;
  int stacked_rows_ = 0;  // rows of the products, a few more than the tile's
  float scale_ = 0.0F;    // of a score, for exponents of two
  std::vector<RowState> states_;
  Scratch query_;    // [stacked rows, head_dim] product type
  Scratch scores_;   // [stacked rows, padded keys] f32
  Scratch weights_;  // [stacked rows, padded keys] product type
  Scratch sums_;     // [stacked rows, head_dim] f32
  Scratch keys_;     // a block in the product type, where that is not the stored one
  Scratch values_;
  Scratch product_scratch_;
};

/// Row `row` of a matrix of floats.
float* float_row(const Scratch& matrix, int row, int columns) {
  return reinterpret_cast<float*>(matrix.data()) + static_cast<std::ptrdiff_t>(row) * columns;
}

std::size_t bytes_of(int rows, int columns, DataType type) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * size_of(type);
}

void Worker::attend(const AttentionArguments& arguments, const Tile& tile) {
  prepare(arguments.shape, tile);
  stack_query(arguments, tile);
  for (const SlotRange& range : arguments.visible) visit_slot(arguments, tile, range, false);
  visit_slot(arguments, tile, arguments.causal, true);
  write_output(arguments, tile);
}

void Worker::prepare(const HeadShape& shape, const Tile& tile) {
  head_dim_ = shape.head_dim;
  group_ = shape.heads / shape.kv_heads;
  // Multiples of 16 keep the number of different products small.
  stacked_rows_ = tile.rows <= 16 ? tile.rows : round_up(tile.rows, 16);
  scale_ = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(head_dim_)));
  states_.assign(static_cast<std::size_t>(tile.rows), RowState{});
  query_.reserve(bytes_of(stacked_rows_, head_dim_, product_));
  scores_.reserve(bytes_of(stacked_rows_, block_keys, DataType::f32));
  weights_.reserve(bytes_of(stacked_rows_, block_keys, product_));
  const std::size_t sum_bytes = bytes_of(stacked_rows_, head_dim_, DataType::f32);
  std::fill_n(sums_.reserve(sum_bytes), sum_bytes, std::byte{0});
}

/// A group's heads are neighbours in a query row, so each position is one run of group * head_dim numbers.
void Worker::stack_query(const AttentionArguments& arguments, const Tile& tile) {
  const int run = group_ * head_dim_;
  const std::size_t offset = bytes_of(tile.kv_head, run, stored_);
  for (int position = 0; position < tile.positions; ++position) {
    convert(arguments.query.row(tile.first + position) + offset, stored_,
            query_.data() + bytes_of(position, run, product_), product_, run);
  }
}

void Worker::visit_slot(const AttentionArguments& arguments, const Tile& tile, const SlotRange& range, bool causal) {
  const std::int64_t first_visible = arguments.causal_before + tile.first + 1;
  std::int64_t count = range.count;
  if (causal) count = std::min(count, first_visible + tile.positions - 1);
  for (std::int64_t first = 0; first < count; first += block_keys) {
    const auto offset = static_cast<std::size_t>(first * head_dim_) * size_of(stored_);
    const bool bf16 = stored_ == DataType::bf16;
    const auto* keys = bf16 ? reinterpret_cast<const std::byte*>(keys_of<Bf16>(range.slot, head_dim_, tile.kv_head))
                            : reinterpret_cast<const std::byte*>(keys_of<float>(range.slot, head_dim_, tile.kv_head));
    const auto* values =
        bf16 ? reinterpret_cast<const std::byte*>(values_of<Bf16>(range.slot, head_dim_, tile.kv_head))
             : reinterpret_cast<const std::byte*>(values_of<float>(range.slot, head_dim_, tile.kv_head));
    const int in_block = static_cast<int>(std::min<std::int64_t>(count - first, block_keys));
    visit_block(tile, {.keys = keys + offset,
                       .values = values + offset,
                       .count = in_block,
                       .padded = round_up(in_block, key_tile),
                       .causal = causal,
                       .first_visible = first_visible - first});
  }
}

void Worker::visit_block(const Tile& tile, const KeyBlock& block) {
  const std::byte* keys = in_product_type(block.keys, block.padded, keys_);
  Product& scores = product(block.padded, false);
  scores.run(stream_, query_.data(), keys, scores_.data(), product_scratch_.reserve(scores.scratch_bytes()));
  weigh_rows(tile, block);
  const std::byte* values = in_product_type(block.values, block.padded, values_);
  Product& sums = product(block.padded, true);
  sums.run(stream_, weights_.data(), values, sums_.data(), product_scratch_.reserve(sums.scratch_bytes()));
}

/// Scores to weights; where a row's maximum grew, its sums so far shrink.
void Worker::weigh_rows(const Tile& tile, const KeyBlock& block) {
  for (int row = 0; row < tile.rows; ++row) {
    const int seen = block.seen_by(row / group_);
    float* scores = float_row(scores_, row, block.padded);
    std::byte* weights = weights_.data() + bytes_of(row, block.padded, product_);
    RowState& state = states_[static_cast<std::size_t>(row)];
    const float factor =
        product_ == DataType::bf16
            ? add_to_softmax(scores, seen, block.padded, scale_, state, reinterpret_cast<Bf16*>(weights))
            : add_to_softmax(scores, seen, block.padded, scale_, state, reinterpret_cast<float*>(weights));
    float* sums = float_row(sums_, row, head_dim_);
    if (factor != 1.0F) multiply(sums, head_dim_, factor, sums);
  }
}

void Worker::write_output(const AttentionArguments& arguments, const Tile& tile) {
  const View& out = arguments.output;
  for (int row = 0; row < tile.rows; ++row) {
    const RowState& state = states_[static_cast<std::size_t>(row)];
    const std::int64_t position = tile.first + row / group_;
    const int head = tile.kv_head * group_ + row % group_;
    const float* sums = float_row(sums_, row, head_dim_);
    std::byte* target = out.row(position) + bytes_of(head, head_dim_, out.type);
    const float factor = state.sum == 0.0F ? 0.0F : 1.0F / state.sum;
    if (out.type == DataType::bf16) {
      multiply(sums, head_dim_, factor, reinterpret_cast<Bf16*>(target));
    } else {
      multiply(sums, head_dim_, factor, reinterpret_cast<float*>(target));
    }
    if (arguments.log_sum_exp.empty()) continue;
    // Exponents of two to natural logarithms; log(0) is -infinity, as is the maximum of a blind row.
    reinterpret_cast<float*>(arguments.log_sum_exp.row(position))[head] =
        state.maximum * std::numbers::ln2_v<float> + std::log(state.sum);
  }
}

const std::byte* Worker::in_product_type(const std::byte* source, int rows, Scratch& scratch) {
  if (stored_ == product_) return source;
  std::byte* converted = scratch.reserve(bytes_of(block_keys, head_dim_, product_));
  convert(source, stored_, converted, product_, static_cast<std::int64_t>(rows) * head_dim_);
  return converted;
}

Product& Worker::product(int padded_keys, bool of_values) {
  const ProductKey key{stacked_rows_, padded_keys, head_dim_, of_values};
  const auto found = products_.find(key);
  if (found != products_.end()) return found->second;
  if (products_.size() >= kept_products) products_.clear();
  const ProductShape scores{.left = dense(product_, stacked_rows_, head_dim_),
                            .right = transposed(product_, head_dim_, padded_keys),
                            .out = dense(DataType::f32, stacked_rows_, padded_keys)};
  const ProductShape sums{.left = dense(product_, stacked_rows_, padded_keys),
                          .right = dense(product_, padded_keys, head_dim_),
                          .out = dense(DataType::f32, stacked_rows_, head_dim_),
                          .accumulate = true};
  return products_.try_emplace(key, engine_, of_values ? sums : scores).first->second;
}

}  // namespace

struct Attention::State {
  std::vector<Worker> workers;  // one a thread
};

Attention::Attention(int threads, DataType compute_type) : state_(std::make_unique<State>()) {
  for (int i = 0; i < threads; ++i) state_->workers.emplace_back(compute_type, product_type(compute_type));
}

Attention::~Attention() = default;

void Attention::run(const AttentionArguments& arguments) {
  const HeadShape& shape = arguments.shape;
  const int group = shape.heads / shape.kv_heads;
  const int positions = std::max(1, tile_rows / group);
  const std::int64_t rows = arguments.query.rows;
  const std::int64_t tiles = (rows + positions - 1) / positions * shape.kv_heads;
  [[maybe_unused]] const auto threads = static_cast<int>(state_->workers.size());

#pragma omp parallel num_threads(threads)
  {
    const ScopedThreads alone(1);
    const FlushSubnormals flush;
    Worker& worker = state_->workers[static_cast<std::size_t>(omp_get_thread_num())];
    // The last rows come first: with a causal slot they see most, and the short ones fill the gaps.
#pragma omp for schedule(dynamic)
    for (std::int64_t i = tiles - 1; i >= 0; --i) {
      const std::int64_t first = i / shape.kv_heads * positions;
      const int count = static_cast<int>(std::min<std::int64_t>(positions, rows - first));
      worker.attend(
          arguments,
          {.kv_head = static_cast<int>(i % shape.kv_heads), .first = first, .positions = count, .rows = count * group});
    }
  }
}

}  // namespace apb::cpu
