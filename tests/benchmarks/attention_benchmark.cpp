// Speed of attention on one core against the peak of its products, measured alternately in the same run.
//
//   attention_benchmark [--kernel NAME] [--repeats N] [--quick] [--decode]
//
// Prints GF/s (4 * visible pairs * head_dim), the peak in the same seconds, the core's clock after each, and shares.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/peak.hpp"
#include "cpu/attention/attention.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"
#include "cpu/scratch.hpp"

namespace apb {
namespace {

double seconds_of(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// GHz, by multiplications that wait for one another: three cycles each.
double clock_ghz() {
  constexpr int count = 400'000;
  std::uint64_t x = 3;
  const double seconds = seconds_of([&] {
    for (int i = 0; i < count; ++i) asm volatile("imul %0, %0" : "+r"(x));
  });
  return 3.0 * count / seconds / 1e9;
}

struct Cell {
  HeadShape shape;
  bool causal;
  int keys;
  int rows;
};

class Problem {
 public:
  explicit Problem(const Cell& cell) : cell_(cell) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<cpu::Bf16> numbers(1 << 16);
    for (cpu::Bf16& number : numbers) number = cpu::to_bf16(normal(random));
    const auto fill = [&](cpu::Scratch& target, std::size_t bytes) {
      auto* const elements = reinterpret_cast<cpu::Bf16*>(target.reserve(bytes));
      for (std::size_t i = 0; i < bytes / sizeof(cpu::Bf16); ++i) {
        elements[i] = numbers[(i * 7 + i / numbers.size()) % numbers.size()];
      }
    };
    const HeadShape& shape = cell.shape;
    fill(slot_, bytes());
    const std::size_t query_bytes = static_cast<std::size_t>(cell.rows * shape.query_columns()) * sizeof(cpu::Bf16);
    fill(query_, query_bytes);
    output_.reserve(query_bytes);
  }

  void run(cpu::Attention& attention) {
    const auto view = [&](const cpu::Scratch& memory) {
      const int columns = cell_.shape.query_columns();
      return View{memory.data(), DataType::bf16, Space::device, cell_.rows, columns, columns};
    };
    const SlotRange range{{slot_.data(), cell_.keys}, cell_.keys};
    AttentionArguments arguments{.shape = cell_.shape, .query = view(query_), .output = view(output_)};
    if (cell_.causal) {
      arguments.causal = range;
      arguments.causal_before = cell_.keys - cell_.rows;
    } else {
      arguments.visible = {&range, 1};
    }
    attention.run(arguments);
  }

  double flops() const {
    const double hidden = cell_.causal ? (cell_.rows - 1.0) * cell_.rows / 2.0 : 0.0;
    const double pairs = static_cast<double>(cell_.rows) * cell_.keys - hidden;
    return 4.0 * pairs * cell_.shape.query_columns();
  }
  std::size_t bytes() const { return cpu::slot_bytes(cell_.keys, cell_.shape, DataType::bf16); }

 private:
  Cell cell_;
  cpu::Scratch slot_;
  cpu::Scratch query_;
  cpu::Scratch output_;
};

struct Options {
  std::string kernel;
  int repeats = 7;
  bool quick = false;
  bool decode = false;
};

void measure_prefill(const Options& options, const cpu::AttentionKernel& kernel) {
  cpu::Attention attention(1, DataType::bf16, &kernel);
  fmt::print("{:>22} {:>7} {:>6} | {:>8} {:>5} | {:>8} {:>5} | {:>6}\n", kernel.name, "keys", "rows", "GF/s", "GHz",
             "peak", "GHz", "share");
  double log_sum = 0.0;
  int cells = 0;
  for (const HeadShape& shape : {HeadShape{9, 3, 64}, HeadShape{32, 8, 128}}) {
    if (!kernel.supports(shape.head_dim)) continue;
    for (const bool causal : {false, true}) {
      for (const int keys : {4096, 16384, 65536}) {
        if (options.quick && keys != 16384) continue;
        // One KV head of the shape's group is as good as all, and quicker.
        const int group = shape.heads / shape.kv_heads;
        const int rows = causal && keys == 4096 ? keys : 1024;
        const Cell cell{{group, 1, shape.head_dim}, causal, keys, rows};
        Problem problem(cell);
        problem.run(attention);
        std::vector<double> rates, rate_clocks, peaks, peak_clocks;
        for (int i = 0; i < options.repeats; ++i) {
          rates.push_back(problem.flops() / seconds_of([&] { problem.run(attention); }) / 1e9);
          rate_clocks.push_back(clock_ghz());
          peaks.push_back(peak_gflops());
          peak_clocks.push_back(clock_ghz());
        }
        const double share = median(rates) / median(peaks);
        log_sum += std::log(share);
        ++cells;
        fmt::print("{:>3} GQA {} {:>12} {:>7} {:>6} | {:8.1f} {:5.2f} | {:8.1f} {:5.2f} | {:6.3f}\n", shape.head_dim,
                   group, causal ? "causal" : "dense", keys, rows, median(rates), median(rate_clocks), median(peaks),
                   median(peak_clocks), share);
      }
    }
  }
  fmt::print("geometric mean {:.3f}\n\n", std::exp(log_sum / cells));
}

/// Bytes read a second from memory: sums of 64-byte words over a buffer as large as the slot.
double read_bandwidth(const std::vector<std::uint64_t>& buffer) {
  std::uint64_t sums[8] = {};
  const double seconds = seconds_of([&] {
    for (std::size_t i = 0; i + 8 <= buffer.size(); i += 8) {
      for (std::size_t j = 0; j < 8; ++j) sums[j] ^= buffer[i + j];
    }
    asm volatile("" : : "r"(sums) : "memory");
  });
  return static_cast<double>(buffer.size() * sizeof(std::uint64_t)) / seconds / 1e9;
}

/// One row against 32K keys of all KV heads, in slots of many layers, so that they come from memory.
void measure_decoding(const Options& options, const cpu::AttentionKernel& kernel) {
  cpu::Attention attention(1, DataType::bf16, &kernel);
  for (const HeadShape& shape : {HeadShape{9, 3, 64}, HeadShape{32, 8, 128}}) {
    if (!kernel.supports(shape.head_dim)) continue;
    const Cell cell{shape, false, 32768, 1};
    const int layers = shape.head_dim == 64 ? 16 : 4;
    std::vector<Problem> problems;
    for (int layer = 0; layer < layers; ++layer) problems.emplace_back(cell);
    const std::size_t bytes = problems[0].bytes() * problems.size();
    const std::vector<std::uint64_t> buffer(bytes / sizeof(std::uint64_t), 1);
    std::vector<double> rates, reads;
    for (int i = 0; i < options.repeats; ++i) {
      const double seconds = seconds_of([&] {
        for (Problem& problem : problems) problem.run(attention);
      });
      rates.push_back(static_cast<double>(bytes) / seconds / 1e9);
      reads.push_back(read_bandwidth(buffer));
    }
    fmt::print("decoding {} {}/{} x {}, 32K keys, {:.0f} MB: {:.1f} GB/s, read {:.1f} GB/s, share {:.2f}\n",
               kernel.name, shape.heads, shape.kv_heads, shape.head_dim, static_cast<double>(bytes) / 1e6,
               median(rates), median(reads), median(rates) / median(reads));
  }
}

}  // namespace
}  // namespace apb

int main(int argument_count, char** arguments) {
  apb::Options options;
  for (int i = 1; i < argument_count; ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--quick") options.quick = true;
    if (argument == "--decode") options.decode = true;
    if (argument == "--kernel" && i + 1 < argument_count) options.kernel = arguments[++i];
    if (argument == "--repeats" && i + 1 < argument_count) options.repeats = std::atoi(arguments[++i]);
  }
  for (const auto& kernel : apb::cpu::attention_kernels()) {
    const bool wanted = options.kernel.empty() || options.kernel == kernel.name;
    if (!wanted || kernel.stored != apb::DataType::bf16 || !kernel.runs_here()) continue;
    if (options.decode) {
      apb::measure_decoding(options, kernel);
    } else {
      apb::measure_prefill(options, kernel);
    }
    std::fflush(stdout);
    if (options.kernel.empty()) break;
  }
  return 0;
}
