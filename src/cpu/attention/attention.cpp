#include "cpu/attention/attention.hpp"

#include <omp.h>
#include <sched.h>
#include <xmmintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <numbers>
#include <numeric>
#include <span>

#include "cpu/bf16.hpp"
#include "cpu/convert.hpp"
#include "cpu/key_value_layout.hpp"

namespace apb::cpu {
namespace {

/// Rows of a block: what one thread adds keys to, run by run.
constexpr int block_rows = 512;
/// Bytes of keys and values in a run.
constexpr int run_bytes = 256 * 1024;
/// Up to this many rows a KV head (decoding, a question) the keys are shared out too, in parts that are merged.
constexpr std::int64_t few_rows = 128;
constexpr std::int64_t most_parts = 16;
constexpr std::int64_t smallest_part = 1024;

constexpr float infinity = std::numeric_limits<float>::infinity();

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

template <typename Count>
constexpr Count round_up(Count value, Count unit) {
  return (value + unit - 1) / unit * unit;
}

/// Cuts a slot's tokens into runs of at most `length`, as far as the last of `rows` query rows sees them.
void add_runs(const SlotRange& range, std::int64_t visible, std::int64_t rows, int length,
              std::vector<TokenRun>& runs) {
  const std::int64_t count = std::min<std::int64_t>(range.count, visible + rows - 1);
  for (std::int64_t first = 0; first < count; first += length) {
    runs.push_back(
        {range.slot, first, static_cast<int>(std::min<std::int64_t>(count - first, length)), visible - first});
  }
}

/// One call: blocks of positions x KV heads x parts of the keys.
class Call {
 public:
  Call(const AttentionArguments& arguments, const AttentionKernel& kernel, std::span<const TokenRun> runs,
       const std::function<bool()>& progress)
      : arguments_(arguments),
        shape_(arguments.shape),
        kernel_(kernel),
        runs_(runs),
        progress_(progress),
        group_(shape_.heads / shape_.kv_heads),
        width_(value_width(shape_.head_dim)),
        positions_(std::clamp<std::int64_t>(block_rows / group_, 1, arguments.query.rows)),
        blocks_((arguments.query.rows + positions_ - 1) / positions_),
        room_(round_up<std::size_t>(static_cast<std::size_t>(positions_ * group_), padded_rows)) {
    const std::int64_t tokens = std::accumulate(runs.begin(), runs.end(), std::int64_t{0},
                                                [](std::int64_t sum, const TokenRun& run) { return sum + run.count; });
    if (arguments.query.rows * group_ > few_rows) return;
    tokens_of_part_ = std::max(smallest_part, (tokens + most_parts - 1) / most_parts);
    parts_ = std::max<std::int64_t>(1, (tokens + tokens_of_part_ - 1) / tokens_of_part_);
  }

  void run(int threads, Scratch& memory) {
    const std::int64_t items = blocks_ * shape_.kv_heads * parts_;
    // Parts that are merged later each keep their memory.
    std::byte* const base = memory.reserve(bytes() * static_cast<std::size_t>(parts_ > 1 ? items : threads));
    const auto memory_of = [&](std::int64_t index) { return base + bytes() * static_cast<std::size_t>(index); };
#pragma omp parallel num_threads(threads) if (items > 1 && threads > 1)
    {
      const FlushSubnormals flush;
      // The last rows come first: with a causal slot they see most, and the short ones fill the gaps.
#pragma omp for schedule(dynamic) nowait
      for (std::int64_t i = items - 1; i >= 0; --i) {
        std::byte* const own = memory_of(parts_ > 1 ? i : omp_get_thread_num());
        attend(i / parts_, i % parts_, own);
        if (parts_ == 1) write_block(i, own);
        attended_.fetch_add(1, std::memory_order_relaxed);
      }
      while (let_messages_move() && attended_.load(std::memory_order_relaxed) < items) sched_yield();
#pragma omp barrier
      if (parts_ > 1) {
#pragma omp for
        for (std::int64_t i = 0; i < items / parts_; ++i) write_block(i, memory_of(i * parts_));
      }
    }
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  /// The memory of a part.
  std::size_t query_bytes() const {
    return room_ * static_cast<std::size_t>(shape_.head_dim) * size_of(kernel_.operand);
  }
  std::size_t bytes() const {
    const std::size_t floats = room_ * static_cast<std::size_t>(width_ + sum_lanes + 1);
    return round_up<std::size_t>(floats * sizeof(float) + query_bytes(), 64);
  }
  std::byte* query_in(std::byte* memory) const {
    return memory + room_ * static_cast<std::size_t>(width_ + sum_lanes + 1) * sizeof(float);
  }
  StackedRows rows_in(std::byte* memory) const {
    auto* const output = reinterpret_cast<float*>(memory);
    float* const sums = output + room_ * static_cast<std::size_t>(width_);
    float* const references = sums + room_ * sum_lanes;
    return {.query = query_in(memory),
            .output = output,
            .sums = sums,
            .references = references,
            .group = group_,
            .head_dim = shape_.head_dim,
            .scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(shape_.head_dim)))};
  }

  /// In the thread that called; no exception may leave a parallel region.
  bool let_messages_move() {
    if (omp_get_thread_num() != 0 || !progress_ || thrown_) return false;
    try {
      return progress_();
    } catch (...) {
      thrown_ = std::current_exception();
      return false;
    }
  }

  std::int64_t first_position(std::int64_t block) const { return block / shape_.kv_heads * positions_; }
  std::int64_t positions(std::int64_t block) const {
    return std::min(positions_, arguments_.query.rows - first_position(block));
  }

  void attend(std::int64_t block, std::int64_t part, std::byte* memory) {
    StackedRows rows = rows_in(memory);
    rows.rows = static_cast<int>(positions(block)) * group_;
    std::fill(rows.output, rows.references, 0.0F);
    std::fill_n(rows.references, room_, -infinity);
    const auto kv_head = static_cast<int>(block % shape_.kv_heads);
    stack_query(block, kv_head, query_in(memory));
    std::int64_t token = 0;
    for (const TokenRun& run : runs_) {
      if (token / tokens_of_part_ == part) {
        attend_run(rows, run, first_position(block), kv_head);
        let_messages_move();
      }
      token += run.count;
    }
  }

  /// A group's heads are neighbours in a query row, so each position is one run of group * head_dim numbers.
  void stack_query(std::int64_t block, int kv_head, std::byte* query) const {
    const std::int64_t columns = std::int64_t{group_} * shape_.head_dim;
    for (std::int64_t i = 0; i < positions(block); ++i) {
      const std::byte* source = arguments_.query.row(first_position(block) + i) +
                                static_cast<std::size_t>(kv_head * columns) * size_of(kernel_.stored);
      convert(source, kernel_.stored, query, kernel_.operand, columns);
      query += static_cast<std::size_t>(columns) * size_of(kernel_.operand);
    }
    const std::size_t used = static_cast<std::size_t>(positions(block) * columns) * size_of(kernel_.operand);
    std::fill_n(query, query_bytes() - used, std::byte{0});
  }

  void attend_run(const StackedRows& rows, const TokenRun& run, std::int64_t position, int kv_head) const {
    const auto segment = [&]<typename Element>(Element) {
      const HeadLayout<Element> layout(run.slot, shape_.head_dim, kv_head);
      return KeySegment{.keys = reinterpret_cast<const std::byte*>(layout.keys() + run.first * shape_.head_dim),
                        .values = reinterpret_cast<const std::byte*>(layout.values() + run.first * width_),
                        .count = run.count,
                        .first_visible = run.first_visible + position};
    };
    kernel_.attend(rows, kernel_.stored == DataType::bf16 ? segment(Bf16{}) : segment(float{}));
  }

  /// Merges a block's parts, in their order, and writes the rows out.
  void write_block(std::int64_t block, std::byte* memory) const {
    const auto kv_head = static_cast<int>(block % shape_.kv_heads);
    for (std::int64_t row = 0; row < positions(block) * group_; ++row) {
      const std::int64_t position = first_position(block) + row / group_;
      write_row(position, kv_head * group_ + static_cast<int>(row % group_), row, memory);
    }
  }

  void write_row(std::int64_t position, int head, std::int64_t row, std::byte* memory) const {
    StackedRows first = rows_in(memory);
    float* const output = first.output + row * width_;
    float reference = -infinity;
    for (std::int64_t part = 0; part < parts_; ++part) {
      reference = std::max(reference, rows_in(memory + bytes() * static_cast<std::size_t>(part)).references[row]);
    }
    float sum = 0.0F;
    for (std::int64_t part = 0; part < parts_; ++part) {
      const StackedRows rows = rows_in(memory + bytes() * static_cast<std::size_t>(part));
      const float* sums = rows.sums + row * sum_lanes;
      const float own_sum = std::accumulate(sums, sums + sum_lanes, 0.0F);
      const float factor = own_sum == 0.0F ? 0.0F : std::exp2(rows.references[row] - reference);
      sum += factor * own_sum;
      scale_and_add(rows.output + row * width_, factor, part == 0, output);
    }
    const View& out = arguments_.output;
    std::byte* const target = out.row(position) + static_cast<std::size_t>(head * shape_.head_dim) * size_of(out.type);
    scale_and_add(output, sum == 0.0F ? 0.0F : 1.0F / sum, true, output);
    convert(reinterpret_cast<const std::byte*>(output), DataType::f32, target, out.type, shape_.head_dim);
    if (arguments_.log_sum_exp.empty()) return;
    // Exponents of two to natural logarithms; log(0) is -infinity, as is the reference of a blind row.
    reinterpret_cast<float*>(arguments_.log_sum_exp.row(position))[head] =
        reference * std::numbers::ln2_v<float> + std::log(sum);
  }

  /// out = or += x * factor.
  void scale_and_add(const float* x, float factor, bool replace, float* out) const {
#pragma omp simd
    for (int i = 0; i < width_; ++i) out[i] = (replace ? 0.0F : out[i]) + x[i] * factor;
  }

  const AttentionArguments& arguments_;
  const HeadShape& shape_;
  const AttentionKernel& kernel_;
  std::span<const TokenRun> runs_;
  const std::function<bool()>& progress_;
  std::atomic<std::int64_t> attended_ = 0;  // blocks and parts
  std::exception_ptr thrown_;
  int group_;
  int width_;
  std::int64_t positions_;  // of a block
  std::int64_t blocks_;
  std::size_t room_;  // for the rows of a block
  std::int64_t tokens_of_part_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t parts_ = 1;
};

}  // namespace

const AttentionKernel& Attention::kernel_for(int head_dim) const {
  if (wanted_ != nullptr) return *wanted_;
  const auto kernels = attention_kernels();
  return *std::find_if(kernels.begin(), kernels.end(), [&](const AttentionKernel& kernel) {
    return kernel.stored == type_ && kernel.supports(head_dim) && kernel.runs_here();
  });
}

void Attention::run(const AttentionArguments& arguments, const std::function<bool()>& progress) {
  const HeadShape& shape = arguments.shape;
  const std::int64_t rows = arguments.query.rows;
  if (rows == 0) return;
  const auto bytes_of_token = static_cast<int>(slot_bytes(1, {1, 1, shape.head_dim}, type_));
  const int length = std::max(key_tile, run_bytes / bytes_of_token / key_tile * key_tile);
  runs_.clear();
  for (const SlotRange& range : arguments.visible) add_runs(range, range.count, rows, length, runs_);
  add_runs(arguments.causal, arguments.causal_before + 1, rows, length, runs_);
  Call(arguments, kernel_for(shape.head_dim), runs_, progress).run(threads_, memory_);
}

}  // namespace apb::cpu
