// Attention over slots against loops in double precision, with every kernel that this processor runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "compare.hpp"
#include "cpu/attention/attention.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"
#include "cpu/rows.hpp"
#include "unit/cpu/software_tile_kernel.hpp"

namespace apb {
namespace {

using Numbers = std::vector<double>;

constexpr double infinity = std::numeric_limits<double>::infinity();

struct SlotSize {
  int count;
  int capacity;
};

struct Case {
  HeadShape shape;
  std::int64_t rows;
  std::vector<SlotSize> visible;
  SlotSize causal{0, 0};
  std::int64_t causal_before = 0;
  double scale = 1.5;   // of query and keys
  double growth = 1.0;  // of the keys, from the first to the last one of a slot
};

/// Numbers between -scale and scale, as `Element` rounds them.
template <typename Element>
void fill_random(Element& element, double scale, std::mt19937& random) {
  element = cpu::from_float<Element>(static_cast<float>(std::uniform_real_distribution<double>(-scale, scale)(random)));
}

/// A slot with random tokens. Everything else in it is NaN, and zero behind the values up to the end of a tile.
struct FilledSlot {
  FilledSlot(const SlotSize& size, const Case& tested, DataType type, std::mt19937& random)
      : memory(cpu::slot_bytes(size.capacity, tested.shape, type)), range{{memory.data(), size.capacity}, size.count} {
    std::memset(memory.data(), 0xFF, memory.size());
    cpu::with_element(type, [&]<typename Element>(Element) {
      for (int head = 0; head < tested.shape.kv_heads; ++head) fill<Element>(head, tested, random);
    });
  }

  template <typename Element>
  void fill(int head, const Case& tested, std::mt19937& random) {
    const int head_dim = tested.shape.head_dim;
    const cpu::HeadLayout<Element> layout(range.slot, head_dim, head);
    for (int token = 0; token < (range.count + 31) / 32 * 32; ++token) {
      const double progress = static_cast<double>(token) / std::max(1, range.count - 1);
      for (int i = 0; i < head_dim; ++i) {
        layout.value(token, i) = Element{};
        if (token >= range.count) continue;
        fill_random(layout.key(token, i), tested.scale * (1.0 + (tested.growth - 1.0) * progress), random);
        fill_random(layout.value(token, i), 1.0, random);
      }
    }
  }

  std::vector<std::byte> memory;
  SlotRange range;
};

struct Result {
  std::vector<float> output;
  std::vector<float> log_sum_exp;
};

/// A matrix of `type`, three elements longer from row to row than it is wide, all NaN.
struct Matrix {
  Matrix(DataType type, std::int64_t rows, std::int64_t columns)
      : memory(static_cast<std::size_t>(rows * (columns + 3)) * size_of(type), std::byte{0xFF}),
        view{memory.data(), type, Space::device, rows, columns, columns + 3} {}

  /// The numbers; fails the test if anything was written between the rows.
  std::vector<float> numbers() const {
    std::vector<float> result;
    cpu::with_element(view.type, [&]<typename Element>(Element) {
      for (std::int64_t row = 0; row < view.rows; ++row) {
        const auto* elements = cpu::row_of<Element>(view, row);
        for (std::int64_t i = 0; i < view.columns; ++i) result.push_back(cpu::to_float(elements[i]));
        for (std::int64_t i = view.columns; i < view.stride; ++i) EXPECT_TRUE(std::isnan(cpu::to_float(elements[i])));
      }
    });
    return result;
  }

  std::vector<std::byte> memory;
  View view;
};

class Problem {
 public:
  Problem(Case tested, DataType type, unsigned seed)
      : tested_(std::move(tested)), type_(type), query_(type, tested_.rows, tested_.shape.query_columns()) {
    std::mt19937 random(seed);
    for (const SlotSize& size : tested_.visible) slots_.emplace_back(size, tested_, type, random);
    slots_.emplace_back(tested_.causal, tested_, type, random);
    cpu::with_element(type, [&]<typename Element>(Element) {
      for (std::int64_t row = 0; row < tested_.rows; ++row) {
        for (int i = 0; i < tested_.shape.query_columns(); ++i) {
          fill_random(cpu::row_of<Element>(query_.view, row)[i], tested_.scale, random);
        }
      }
    });
  }

  std::vector<FilledSlot>& slots() { return slots_; }
  View query() { return query_.view; }

  Result run(cpu::Attention& attention, DataType output_type) const {
    Matrix output(output_type, tested_.rows, tested_.shape.query_columns());
    Matrix log_sum_exp(DataType::f32, tested_.rows, tested_.shape.heads);
    std::vector<SlotRange> visible;
    for (const FilledSlot& slot : slots_) visible.push_back(slot.range);
    const SlotRange causal = visible.back();
    visible.pop_back();
    attention.run({.shape = tested_.shape,
                   .query = query_.view,
                   .visible = visible,
                   .causal = causal,
                   .causal_before = tested_.causal_before,
                   .output = output.view,
                   .log_sum_exp = log_sum_exp.view});
    return {output.numbers(), log_sum_exp.numbers()};
  }

  Result expected() const {
    Result result;
    cpu::with_element(type_, [&]<typename Element>(Element) {
      for (std::int64_t row = 0; row < tested_.rows; ++row) {
        for (int head = 0; head < tested_.shape.heads; ++head) add_expected<Element>(row, head, result);
      }
    });
    return result;
  }

 private:
  /// How many tokens of slot `index` the row sees; the causal slot is the last one.
  std::int64_t seen(std::size_t index, std::int64_t row) const {
    const std::int64_t count = slots_[index].range.count;
    return index + 1 < slots_.size() ? count : std::min(count, tested_.causal_before + row + 1);
  }

  template <typename Element>
  void add_expected(std::int64_t row, int head, Result& result) const {
    const int head_dim = tested_.shape.head_dim;
    const auto* query = cpu::row_of<Element>(query_.view, row) + head * head_dim;
    Numbers scores;
    double maximum = -infinity;
    const auto for_each_key = [&](const auto& body) {
      for (std::size_t index = 0; index < slots_.size(); ++index) {
        const cpu::HeadLayout<Element> layout(slots_[index].range.slot, head_dim,
                                              head / (tested_.shape.heads / tested_.shape.kv_heads));
        for (std::int64_t token = 0; token < seen(index, row); ++token) body(layout, token);
      }
    };
    for_each_key([&](const auto& layout, std::int64_t token) {
      double dot = 0.0;
      for (int i = 0; i < head_dim; ++i) {
        dot += double{cpu::to_float(query[i])} * double{cpu::to_float(layout.key(token, i))};
      }
      scores.push_back(dot / std::sqrt(static_cast<double>(head_dim)));
      maximum = std::max(maximum, scores.back());
    });
    double sum = 0.0;
    Numbers output(static_cast<std::size_t>(head_dim), 0.0);
    std::size_t key = 0;
    for_each_key([&](const auto& layout, std::int64_t token) {
      const double weight = std::exp(scores[key++] - maximum);
      sum += weight;
      for (int i = 0; i < head_dim; ++i) {
        output[static_cast<std::size_t>(i)] += weight * double{cpu::to_float(layout.value(token, i))};
      }
    });
    for (const double value : output) result.output.push_back(static_cast<float>(scores.empty() ? 0.0 : value / sum));
    result.log_sum_exp.push_back(static_cast<float>(maximum + std::log(sum)));
  }

  Case tested_;
  DataType type_;
  Matrix query_;
  std::vector<FilledSlot> slots_;  // and the causal slot
};

/// Runs the test with each kernel that this processor can run for a type and a head_dim.
void with_every_kernel(DataType type, int head_dim, const std::function<void(const cpu::AttentionKernel&)>& test) {
  for (const auto kernels : {cpu::attention_kernels(), software_tile_kernels()}) {
    for (const cpu::AttentionKernel& kernel : kernels) {
      if (kernel.stored != type || !kernel.supports(head_dim) || !kernel.runs_here()) continue;
      SCOPED_TRACE(std::string(kernel.name) + (type == DataType::bf16 ? " bf16" : " f32"));
      test(kernel);
    }
  }
}

struct Tolerance {
  double output;       // relative to the largest
  double log_sum_exp;  // absolute
};

double largest_difference(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = actual.size() == expected.size() ? 0.0 : infinity;
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    if (actual[i] == expected[i]) continue;  // infinities too
    const double one = std::abs(double{actual[i]} - double{expected[i]});
    difference = one <= difference ? difference : one;  // NaN stays
  }
  return difference;
}

void expect_close(const Result& actual, const Result& expected, const Tolerance& tolerance) {
  double largest = 1e-30;
  for (const float value : expected.output) largest = std::max(largest, std::abs(double{value}));
  EXPECT_LE(largest_difference(actual.output, expected.output) / largest, tolerance.output);
  EXPECT_LE(largest_difference(actual.log_sum_exp, expected.log_sum_exp), tolerance.log_sum_exp);
}

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// Every kernel, on one thread and on two, which must agree in every bit.
void expect_attention(const Case& tested, DataType type, const Tolerance& tolerance) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  const Problem problem(tested, type, seed);
  const Result expected = problem.expected();
  with_every_kernel(type, tested.shape.head_dim, [&](const cpu::AttentionKernel& kernel) {
    cpu::Attention one(1, type, &kernel);
    cpu::Attention two(2, type, &kernel);
    const Result first = problem.run(one, DataType::f32);
    expect_close(first, expected, tolerance);
    for (auto* attention : {&one, &two}) {
      const Result again = problem.run(*attention, DataType::f32);
      EXPECT_TRUE(same_bytes(first.output, again.output) && same_bytes(first.log_sum_exp, again.log_sum_exp))
          << "another run, or another number of threads, gives other bits";
    }
    if (type == DataType::f32) return;
    Result rounded = problem.run(two, DataType::bf16);
    expect_close(rounded, expected, {tolerance.output + 4e-3, tolerance.log_sum_exp});
  });
}

void expect_attention(const Case& tested) {
  const double squared = tested.scale * tested.scale * tested.growth;
  expect_attention(tested, DataType::f32, {4e-6 * squared, 4e-6 * squared});
  expect_attention(tested, DataType::bf16, {1e-2, 6e-3});
}

constexpr HeadShape nine_of_three{9, 3, 64};
constexpr HeadShape llama{8, 2, 128};

TEST(Attention, OneRow) {
  expect_attention({nine_of_three, 1, {{1, 32}}});
  expect_attention({{4, 1, 128}, 1, {{33, 64}, {0, 32}, {700, 704}, {31, 96}}});
}

TEST(Attention, OneRowManyKeysInParts) {
  expect_attention({nine_of_three, 1, {{5000, 5024}}});
  expect_attention({llama, 2, {{3000, 3008}, {777, 800}}, {2, 32}});
}

TEST(Attention, RowsOfOneTile) { expect_attention({nine_of_three, 3, {{31, 32}, {33, 96}}, {3, 32}}); }

TEST(Attention, Causal) {
  expect_attention({nine_of_three, 129, {}, {129, 160}});
  expect_attention({llama, 177, {}, {177, 192}});
  expect_attention({{4, 1, 32}, 17, {}, {700, 704}, 683});
  expect_attention({{2, 2, 64}, 17, {}, {700, 1024}, 520});
}

TEST(Attention, ManySlots) {
  expect_attention({nine_of_three, 129, {{700, 704}, {0, 0}, {1, 32}, {33, 64}}, {129, 160}});
  expect_attention({llama, 67, {{700, 704}, {1100, 1120}, {33, 64}}, {67, 96}});
}

TEST(Attention, MoreKeysThanARun) {
  expect_attention({{2, 2, 64}, 70, {{2500, 2528}}, {70, 96}});
  expect_attention({{4, 2, 128}, 70, {{1300, 1312}}, {70, 96}});
}

TEST(Attention, OddHeadDims) {
  for (const int head_dim : {8, 16, 34, 48, 80, 96, 160, 256}) {
    expect_attention({{6, 2, head_dim}, 65, {{33, 64}}, {65, 96}});
  }
}

TEST(Attention, EveryGroup) {
  for (int group = 1; group <= 8; ++group) expect_attention({{2 * group, 2, 64}, 51, {{77, 96}}, {51, 64}});
}

TEST(Attention, MoreRowsThanABlock) {
  expect_attention({{2, 2, 32}, 601, {{31, 32}}, {601, 608}});
  expect_attention({{6, 1, 64}, 201, {{31, 32}}, {201, 224}});
}

TEST(Attention, NothingToSee) { expect_attention({nine_of_three, 3, {{0, 32}}}); }

TEST(Attention, NearlyOneHot) {
  expect_attention({nine_of_three, 33, {{700, 704}}, {33, 64}, 0, 10.0});
  expect_attention({llama, 33, {{700, 704}}, {33, 64}, 0, 10.0});
}

/// The first keys say nothing about the last ones, so that references rise again and again.
TEST(Attention, ScoresThatGrow) {
  for (const HeadShape& shape : {nine_of_three, llama}) {
    expect_attention({shape, 40, {{1500, 1504}}, {40, 64}, 0, 1.5, 200.0}, DataType::f32, {3e-3, 3e-3});
    expect_attention({shape, 40, {{1500, 1504}}, {40, 64}, 0, 1.5, 200.0}, DataType::bf16, {1e-2, 1e-2});
  }
}

TEST(Attention, HugeScores) {
  for (const HeadShape& shape : {nine_of_three, llama}) {
    expect_attention({shape, 20, {{300, 320}}, {}, 0, 1e4}, DataType::f32, {1.0, infinity});
    expect_attention({shape, 20, {{300, 320}}, {}, 0, 1e15}, DataType::bf16, {1.0, infinity});
  }
}

TEST(Attention, RandomShapes) {
  std::mt19937 random(std::random_device{}());
  const auto between = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int i = 0; i < 12; ++i) {
    const int kv_heads = between(1, 3);
    const int head_dim = i % 3 == 0 ? 64 : i % 3 == 1 ? 128 : 2 * between(4, 70);
    Case tested{{kv_heads * between(1, 8), kv_heads, head_dim}, between(1, 90), {}};
    for (int slot = between(0, 3); slot > 0; --slot) {
      const int count = between(0, 900);
      tested.visible.push_back({count, (count + 31) / 32 * 32 + 32 * between(0, 2)});
    }
    const int causal = between(0, 300);
    tested.causal = {causal, (causal + 31) / 32 * 32};
    tested.causal_before = between(0, 200);
    SCOPED_TRACE(testing::Message() << tested.shape.heads << "/" << kv_heads << " heads of " << head_dim << ", "
                                    << tested.rows << " rows");
    expect_attention(tested);
  }
}

/// What one row or one key makes NaN stays with those that see it.
TEST(Attention, NotANumberAndInfinity) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float poison : {nan, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (const int head_dim : {32, 64, 128}) {
      const Case tested{{4, 2, head_dim}, 70, {{100, 128}}, {70, 96}};
      Problem problem(tested, DataType::bf16, 1);
      cpu::row_of<cpu::Bf16>(problem.query(), 5)[head_dim + 3] = cpu::to_bf16(poison);  // row 5, head 1
      // A key that rows 60 and later see, for KV head 1; its scores are NaN or infinite.
      for (int i = 0; i < head_dim; ++i) {
        cpu::HeadLayout<cpu::Bf16>(problem.slots().back().range.slot, head_dim, 1).key(60, i) =
            cpu::to_bf16(std::isnan(poison) || i == 0 ? poison : 0.0F);
      }
      with_every_kernel(DataType::bf16, head_dim, [&](const cpu::AttentionKernel& kernel) {
        cpu::Attention attention(2, DataType::bf16, &kernel);
        const Result result = problem.run(attention, DataType::f32);
        for (std::int64_t row = 0; row < tested.rows; ++row) {
          for (int head = 0; head < 4; ++head) {
            const float out = result.output[static_cast<std::size_t>((row * 4 + head) * head_dim)];
            // Infinite scores of either sign: only +infinity poisons.
            const bool query = row == 5 && head == 1;
            const bool key = row >= 60 && head >= 2;
            if (!query && !key) {
              EXPECT_FALSE(std::isnan(out)) << "row " << row << " head " << head;
            } else if (query || std::isnan(poison)) {
              EXPECT_TRUE(std::isnan(out)) << "row " << row << " head " << head;
            }
          }
        }
      });
    }
  }
}

TEST(Attention, KeepsNothingBetweenCalls) {
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    with_every_kernel(type, 64, [&](const cpu::AttentionKernel& kernel) {
      cpu::Attention attention(2, type, &kernel);
      const Problem large({nine_of_three, 200, {{700, 704}}, {200, 224}, 0, 10.0}, type, 1);
      const Problem small({{4, 1, 64}, 5, {{33, 64}}, {5, 32}}, type, 2);
      large.run(attention, type);
      expect_close(small.run(attention, DataType::f32), small.expected(), {1e-2, 5e-3});
    });
  }
}

}  // namespace
}  // namespace apb
