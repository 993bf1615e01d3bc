// Attention over slots against loops in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "compare.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"
#include "unit/cpu/arrays.hpp"

namespace apb {
namespace {

struct SlotSize {
  int count;
  int capacity;
};

struct Case {
  std::string name;
  HeadShape shape;
  std::int64_t rows;
  std::vector<SlotSize> visible;
  SlotSize causal{0, 0};
  std::int64_t causal_before = 0;
  double scale = 1.5;  // of query and keys
};

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest looks for this name
void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

/// A slot with random tokens. Everything else in it is NaN, and zero behind the values up to the end of a tile.
struct FilledSlot {
  FilledSlot(Device& device, const SlotSize& size, const HeadShape& shape, double scale, unsigned seed)
      : memory(device.allocate(device.slot_bytes(size.capacity, shape))),
        range{{memory.data(), size.capacity}, size.count} {
    const DataType type = device.compute_type();
    std::memset(memory.data(), 0xFF, memory.bytes());
    for (int head = 0; head < shape.kv_heads; ++head) {
      const bool bf16 = type == DataType::bf16;
      auto* key_data = bf16 ? reinterpret_cast<std::byte*>(cpu::keys_of<cpu::Bf16>(range.slot, shape.head_dim, head))
                            : reinterpret_cast<std::byte*>(cpu::keys_of<float>(range.slot, shape.head_dim, head));
      auto* value_data = bf16
                             ? reinterpret_cast<std::byte*>(cpu::values_of<cpu::Bf16>(range.slot, shape.head_dim, head))
                             : reinterpret_cast<std::byte*>(cpu::values_of<float>(range.slot, shape.head_dim, head));
      const std::int64_t tiled = std::int64_t{size.count + cpu::key_tile - 1} / cpu::key_tile * cpu::key_tile;
      const auto tokens = [&](std::byte* data, std::int64_t count) {
        return View{data, type, Space::device, count, shape.head_dim, shape.head_dim};
      };
      const auto random = [&](double amplitude) {
        return random_numbers(static_cast<std::int64_t>(size.count) * shape.head_dim, amplitude, seed++);
      };
      write(device, Numbers(static_cast<std::size_t>(tiled * shape.head_dim), 0.0), tokens(value_data, tiled));
      write(device, random(scale), tokens(key_data, size.count));
      write(device, random(1.0), tokens(value_data, size.count));
      keys.push_back(read(tokens(key_data, size.count)));
      values.push_back(read(tokens(value_data, size.count)));
    }
  }

  static void write(Device& device, const Numbers& numbers, const View& view) {
    const std::vector<float> floats(numbers.begin(), numbers.end());
    device.upload(host_view(floats.data(), view.rows, view.columns), view);
  }

  Buffer memory;
  SlotRange range;
  std::vector<Numbers> keys;    // per KV head [count, head_dim]
  std::vector<Numbers> values;  // the same
};

struct Result {
  Numbers output;
  Numbers log_sum_exp;
};

class AttentionProblem {
 public:
  AttentionProblem(Device& device, const Case& tested)
      : device_(device),
        tested_(tested),
        query_(
            random_matrix(device, device.compute_type(), tested.rows, tested.shape.query_columns(), tested.scale, 1)) {
    unsigned seed = 100;
    for (const SlotSize& size : tested.visible) {
      visible_.emplace_back(device, size, tested.shape, tested.scale, seed += 100);
    }
    visible_.emplace_back(device, tested.causal, tested.shape, tested.scale, seed + 100);
  }

  Result run(DataType output_type) {
    Matrix output = poisoned(device_, output_type, tested_.rows, tested_.shape.query_columns());
    Matrix log_sum_exp = poisoned(device_, DataType::f32, tested_.rows, tested_.shape.heads);
    std::vector<SlotRange> visible;
    for (const FilledSlot& slot : visible_) visible.push_back(slot.range);
    const SlotRange causal = visible.back();
    visible.pop_back();
    device_.attention({.shape = tested_.shape,
                       .query = query_.view,
                       .visible = visible,
                       .causal = causal,
                       .causal_before = tested_.causal_before,
                       .output = output.view,
                       .log_sum_exp = log_sum_exp.view});
    device_.synchronize();
    return {read(output.view), read(log_sum_exp.view)};
  }

  Result expected() const {
    const Numbers query = read(query_.view);
    Result result;
    for (std::int64_t row = 0; row < tested_.rows; ++row) {
      for (int head = 0; head < tested_.shape.heads; ++head) {
        add_expected(row, head,
                     &query[static_cast<std::size_t>(row * tested_.shape.query_columns() +
                                                     std::int64_t{head} * tested_.shape.head_dim)],
                     result);
      }
    }
    return result;
  }

 private:
  /// How many tokens of slot `index` the row sees; the causal slot is the last one.
  std::int64_t seen(std::size_t index, std::int64_t row) const {
    const std::int64_t count = visible_[index].range.count;
    return index + 1 < visible_.size() ? count : std::min(count, tested_.causal_before + row + 1);
  }

  void add_expected(std::int64_t row, int head, const double* query, Result& result) const {
    const auto head_dim = static_cast<std::size_t>(tested_.shape.head_dim);
    const auto kv_head = static_cast<std::size_t>(head / (tested_.shape.heads / tested_.shape.kv_heads));
    Numbers scores;
    std::vector<const double*> values;
    for (std::size_t index = 0; index < visible_.size(); ++index) {
      for (std::size_t token = 0; token < static_cast<std::size_t>(seen(index, row)); ++token) {
        const double* key = &visible_[index].keys[kv_head][token * head_dim];
        double dot = 0.0;
        for (std::size_t i = 0; i < head_dim; ++i) dot += query[i] * key[i];
        scores.push_back(dot / std::sqrt(static_cast<double>(head_dim)));
        values.push_back(&visible_[index].values[kv_head][token * head_dim]);
      }
    }
    double maximum = -std::numeric_limits<double>::infinity();
    for (const double score : scores) maximum = std::max(maximum, score);
    double sum = 0.0;
    Numbers output(head_dim, 0.0);
    for (std::size_t key = 0; key < scores.size(); ++key) {
      const double weight = std::exp(scores[key] - maximum);
      sum += weight;
      for (std::size_t i = 0; i < head_dim; ++i) output[i] += weight * values[key][i];
    }
    for (const double value : output) result.output.push_back(scores.empty() ? 0.0 : value / sum);
    result.log_sum_exp.push_back(maximum + std::log(sum));
  }

  Device& device_;
  Case tested_;
  Matrix query_;
  std::vector<FilledSlot> visible_;  // and the causal slot
};

void expect_log_sum_exp(const Numbers& actual, const Numbers& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const bool close =
        std::isinf(expected[i]) ? actual[i] == expected[i] : std::abs(actual[i] - expected[i]) <= tolerance;
    EXPECT_TRUE(close) << "index " << i << ": " << actual[i] << " where " << expected[i] << " is expected";
  }
}

/// Runs it twice on one thread and on two, which must all agree in every bit.
void expect_attention(const Case& tested, DataType type, DataType output_type, double tolerance, double log_tolerance) {
  std::vector<Result> results;
  for (const int threads : {1, 2}) {
    const auto device = make_cpu_device({.threads = threads, .compute_type = type});
    AttentionProblem problem(*device, tested);
    results.push_back(problem.run(output_type));
    results.push_back(problem.run(output_type));
    if (threads > 1) continue;
    const Result expected = problem.expected();
    EXPECT_CLOSE(results.front().output, expected.output, tolerance);
    expect_log_sum_exp(results.front().log_sum_exp, expected.log_sum_exp, log_tolerance);
  }
  for (const Result& result : results) {
    EXPECT_EQ(result.output, results.front().output);
    EXPECT_EQ(result.log_sum_exp, results.front().log_sum_exp);
  }
}

class AttentionTest : public testing::TestWithParam<Case> {};

TEST_P(AttentionTest, Float32) {
  const double scale = GetParam().scale;
  expect_attention(GetParam(), DataType::f32, DataType::f32, 4e-6 * scale * scale, 4e-6 * scale * scale);
}

TEST_P(AttentionTest, Bfloat16ToFloat32) { expect_attention(GetParam(), DataType::bf16, DataType::f32, 6e-3, 5e-3); }

TEST_P(AttentionTest, Bfloat16) { expect_attention(GetParam(), DataType::bf16, DataType::bf16, 1e-2, 5e-3); }

constexpr HeadShape nine_of_three{9, 3, 64};

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    testing::Values(Case{"one_row_one_key", nine_of_three, 1, {{1, 32}}},
                    Case{"one_row_many_slots", {4, 1, 128}, 1, {{33, 64}, {0, 32}, {700, 704}, {31, 96}}},
                    Case{"rows_of_one_tile", nine_of_three, 3, {{31, 32}, {33, 96}}, {3, 32}},
                    Case{"causal_from_the_start", nine_of_three, 129, {}, {129, 160}},
                    Case{"causal_after_many_tokens", {4, 1, 32}, 17, {}, {700, 704}, 683},
                    Case{"causal_sees_less_than_there_is", {2, 2, 64}, 17, {}, {700, 1024}, 520},
                    Case{"everything", nine_of_three, 129, {{700, 704}, {0, 0}, {1, 32}, {33, 64}}, {129, 160}},
                    Case{"odd_head_dim", {6, 2, 48}, 65, {{33, 64}}, {65, 96}},
                    Case{"many_rows_a_head", {2, 2, 32}, 401, {{31, 32}}, {401, 416}},
                    Case{"nothing_to_see", nine_of_three, 3, {{0, 32}}},
                    Case{"nearly_one_hot", nine_of_three, 33, {{700, 704}}, {33, 64}, 0, 10.0}),
    [](const auto& instance) { return instance.param.name; });

TEST(Attention, KeepsNothingBetweenCalls) {
  for (const TypeCase& type : type_cases) {
    const auto device = make_cpu_device({.threads = 2, .compute_type = type.type});
    AttentionProblem large(*device, {"large", nine_of_three, 200, {{700, 704}}, {200, 224}, 0, 10.0});
    AttentionProblem small(*device, {"small", {4, 1, 32}, 5, {{33, 64}}, {5, 32}});
    large.run(type.type);
    EXPECT_CLOSE(small.run(DataType::f32).output, small.expected().output, 6e-3);
  }
}

}  // namespace
}  // namespace apb
