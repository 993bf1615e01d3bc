// Attention over slots against loops in double precision. APB_GPU_TESTS=large adds shapes for a real GPU.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "compare.hpp"
#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"

namespace apb::cuda {
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

/// A slot of random tokens; what is behind them is NaN.
class FilledSlot {
 public:
  FilledSlot(Random& random, const SlotSize& size, const HeadShape& shape, double scale)
      : memory_(slot_bytes(size.capacity, shape)), range_{{memory_.data(), size.capacity}, size.count} {
    std::vector<std::byte> host(memory_.bytes(), std::byte{0xFF});
    const auto matrix = static_cast<std::size_t>(size.capacity * shape.head_dim) * 2;
    const std::int64_t numbers = std::int64_t{size.count} * shape.head_dim;
    for (std::size_t head = 0; head < static_cast<std::size_t>(shape.kv_heads); ++head) {
      keys_.push_back(store(random.numbers(numbers, scale), host, 2 * head * matrix));
      values_.push_back(store(random.numbers(numbers), host, (2 * head + 1) * matrix));
    }
    memory_.upload(host);
  }
  const SlotRange& range() const { return range_; }
  const double* key(std::size_t kv_head, std::int64_t token, int head_dim) const {
    return &keys_[kv_head][static_cast<std::size_t>(token * head_dim)];
  }
  const double* value(std::size_t kv_head, std::int64_t token, int head_dim) const {
    return &values_[kv_head][static_cast<std::size_t>(token * head_dim)];
  }
  /// Overwrites one number of a key, on the device alone.
  void spoil_key(std::size_t kv_head, std::int64_t token, const HeadShape& shape, double number) {
    std::vector<std::byte> host = memory_.download();
    const auto row = static_cast<std::int64_t>(2 * kv_head) * range_.slot.capacity + token;
    store_number(number, DataType::bf16, &host[static_cast<std::size_t>(row * shape.head_dim) * 2]);
    memory_.upload(host);
  }

 private:
  /// Returns the numbers as stored.
  static Numbers store(const Numbers& numbers, std::vector<std::byte>& host, std::size_t offset) {
    Numbers stored;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      std::byte* at = &host[offset + 2 * i];
      store_number(numbers[i], DataType::bf16, at);
      stored.push_back(load_number(DataType::bf16, at));
    }
    return stored;
  }

  DeviceBytes memory_;
  SlotRange range_;
  std::vector<Numbers> keys_;  // per KV head [count, head_dim]
  std::vector<Numbers> values_;
};

struct Result {
  Numbers output;
  Numbers log_sum_exp;
};

/// How it is run: the fewer multiprocessors, the fewer parts.
struct Setting {
  DataType output_type = DataType::f32;
  int multiprocessors = 132;
  bool log_sum_exp = true;
};

class Problem {
 public:
  Problem(Random& random, const Case& tested)
      : tested_(tested),
        query_(DataType::bf16, tested.rows, tested.shape.query_columns(), tested.shape.query_columns() + 24,
               random.numbers(tested.rows * tested.shape.query_columns(), tested.scale)) {
    for (const SlotSize& size : tested.visible) slots_.emplace_back(random, size, tested.shape, tested.scale);
    slots_.emplace_back(random, tested.causal, tested.shape, tested.scale);
  }

  Result run(const Setting& setting) const {
    const HeadShape& shape = tested_.shape;
    const DeviceMatrix output(setting.output_type, tested_.rows, shape.query_columns(), shape.query_columns() + 16);
    const DeviceMatrix log_sum_exp(DataType::f32, tested_.rows, shape.heads, shape.heads + 4);
    check(enqueue(setting, output.view(), setting.log_sum_exp ? log_sum_exp.view() : View{}));
    Result result{output.read(), setting.log_sum_exp ? log_sum_exp.read() : Numbers{}};
    EXPECT_TRUE(output.poison_is_whole());
    EXPECT_TRUE(log_sum_exp.poison_is_whole());
    return result;
  }

  cudaError_t enqueue(const Setting& setting, const View& output, const View& log_sum_exp) const {
    const DeviceBytes workspace(attention_workspace(setting.multiprocessors, tested_.shape));
    std::vector<SlotRange> visible;
    for (const FilledSlot& slot : slots_) visible.push_back(slot.range());
    const SlotRange causal = visible.back();
    visible.pop_back();
    const cudaError_t error = attention(nullptr,
                                        {.shape = tested_.shape,
                                         .query = query_.view(),
                                         .visible = visible,
                                         .causal = causal,
                                         .causal_before = tested_.causal_before,
                                         .output = output,
                                         .log_sum_exp = log_sum_exp},
                                        setting.multiprocessors, {workspace.data(), workspace.bytes()});
    check(cudaDeviceSynchronize());  // before the workspace goes
    return error;
  }

  /// Of row `row` alone: output [heads, head_dim], log-sum-exp [heads].
  Result expected_row(const Numbers& query, std::int64_t row) const {
    Result result;
    for (int head = 0; head < tested_.shape.heads; ++head) {
      const std::int64_t first =
          row * tested_.shape.query_columns() + static_cast<std::int64_t>(head) * tested_.shape.head_dim;
      add_expected(row, head, &query[static_cast<std::size_t>(first)], result);
    }
    return result;
  }

  Numbers query() const { return query_.read(); }
  void spoil_query(std::int64_t row, int head, double number) {
    Numbers numbers = query_.read();
    numbers[static_cast<std::size_t>(row * tested_.shape.query_columns() + head * tested_.shape.head_dim)] = number;
    query_.write(numbers);
  }
  FilledSlot& slot(std::size_t index) { return slots_[index]; }

 private:
  /// How many tokens of slot `index` the row sees; the causal slot is the last one.
  std::int64_t seen(std::size_t index, std::int64_t row) const {
    const std::int64_t count = slots_[index].range().count;
    return index + 1 < slots_.size() ? count : std::clamp(tested_.causal_before + row + 1, std::int64_t{0}, count);
  }

  void add_expected(std::int64_t row, int head, const double* query, Result& result) const {
    const int head_dim = tested_.shape.head_dim;
    const auto kv_head = static_cast<std::size_t>(head / (tested_.shape.heads / tested_.shape.kv_heads));
    Numbers scores;
    std::vector<const double*> values;
    for (std::size_t index = 0; index < slots_.size(); ++index) {
      for (std::int64_t token = 0; token < seen(index, row); ++token) {
        const double* key = slots_[index].key(kv_head, token, head_dim);
        double dot = 0.0;
        for (int i = 0; i < head_dim; ++i) dot += query[i] * key[i];
        scores.push_back(dot / std::sqrt(static_cast<double>(head_dim)));
        values.push_back(slots_[index].value(kv_head, token, head_dim));
      }
    }
    double maximum = -std::numeric_limits<double>::infinity();
    for (const double score : scores) maximum = std::max(maximum, score);
    double sum = 0.0;
    Numbers output(static_cast<std::size_t>(head_dim), 0.0);
    for (std::size_t key = 0; key < scores.size(); ++key) {
      const double weight = std::exp(scores[key] - maximum);
      sum += weight;
      for (std::size_t i = 0; i < output.size(); ++i) output[i] += weight * values[key][i];
    }
    for (const double value : output) result.output.push_back(scores.empty() ? 0.0 : value / sum);
    result.log_sum_exp.push_back(maximum + std::log(sum));
  }

  Case tested_;
  DeviceMatrix query_;
  std::vector<FilledSlot> slots_;  // the causal slot last
};

void expect_log_sum_exp(const Numbers& actual, const Numbers& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double tolerance = 1e-4 + 2e-6 * std::abs(expected[i]);
    const bool close =
        std::isinf(expected[i]) ? actual[i] == expected[i] : std::abs(actual[i] - expected[i]) <= tolerance;
    EXPECT_TRUE(close) << "index " << i << ": " << actual[i] << " where " << expected[i] << " is expected";
  }
}

/// Compares rows `step` apart; the last one is among them.
void expect_rows(const Problem& problem, const Case& tested, const Result& actual, double tolerance,
                 std::int64_t step) {
  const Numbers query = problem.query();
  Result compared;
  Result expected;
  const auto columns = tested.shape.query_columns();
  for (std::int64_t row = (tested.rows - 1) % step; row < tested.rows; row += step) {
    const Result one = problem.expected_row(query, row);
    expected.output.insert(expected.output.end(), one.output.begin(), one.output.end());
    expected.log_sum_exp.insert(expected.log_sum_exp.end(), one.log_sum_exp.begin(), one.log_sum_exp.end());
    const auto output = actual.output.begin() + row * columns;
    const auto log_sum_exp = actual.log_sum_exp.begin() + row * tested.shape.heads;
    compared.output.insert(compared.output.end(), output, output + columns);
    compared.log_sum_exp.insert(compared.log_sum_exp.end(), log_sum_exp, log_sum_exp + tested.shape.heads);
  }
  EXPECT_CLOSE(compared.output, expected.output, tolerance);
  expect_log_sum_exp(compared.log_sum_exp, expected.log_sum_exp);
}

/// With many parts and with one, in both output types; a second run gives the same bits.
void expect_attention(Random& random, const Case& tested, std::int64_t step = 1) {
  const Problem problem(random, tested);
  for (const int processors : {132, 1}) {
    SCOPED_TRACE(processors);
    const Setting setting{.multiprocessors = processors};
    const Result result = problem.run(setting);
    expect_rows(problem, tested, result, 6e-3, step);
    const Result again = problem.run(setting);
    EXPECT_EQ(again.output, result.output);
    EXPECT_EQ(again.log_sum_exp, result.log_sum_exp);
    const Result rounded =
        problem.run({.output_type = DataType::bf16, .multiprocessors = processors, .log_sum_exp = false});
    EXPECT_CLOSE(rounded.output, result.output, 4e-3);
  }
}

class AttentionTest : public testing::TestWithParam<Case> {};

TEST_P(AttentionTest, AgreesWithDoublePrecision) {
  Random random;
  expect_attention(random, GetParam());
}

std::vector<SlotSize> many_slots() {
  std::vector<SlotSize> slots;
  for (int i = 0; i < largest_slot_table; ++i) slots.push_back({i % 16 == 5 ? 1 + i % 65 : 0, 128});
  return slots;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    testing::Values(Case{"one_row_one_key", {9, 3, 64}, 1, {{1, 64}}},
                    Case{"one_row_many_parts", {8, 2, 128}, 1, {{65, 128}, {0, 64}, {300, 320}, {31, 64}}},
                    Case{"rows_of_one_warp", {14, 2, 64}, 2, {{31, 64}, {129, 192}}, {2, 64}},
                    Case{"rows_of_four_warps", {3, 1, 128}, 20, {{63, 64}, {64, 64}}, {20, 64}},
                    Case{"rows_of_a_large_tile", {4, 2, 64}, 37, {{1, 64}, {65, 128}}, {37, 64}},
                    Case{"rows_of_large_tiles", {2, 1, 128}, 129, {{70, 128}}, {129, 192}},
                    Case{"causal_from_the_start", {2, 2, 64}, 193, {}, {193, 256}},
                    Case{"causal_after_many_tokens", {4, 1, 128}, 17, {}, {300, 320}, 283},
                    Case{"causal_sees_less_than_there_is", {2, 2, 64}, 17, {}, {300, 512}, 120},
                    Case{"causal_sees_more_than_there_is", {7, 1, 64}, 11, {}, {90, 128}, 84},
                    Case{"first_rows_are_blind", {3, 3, 64}, 75, {}, {40, 64}, -70},
                    Case{"groups_of_eight", {8, 1, 64}, 19, {{80, 128}}, {19, 64}},
                    Case{"all_slots", {1, 1, 64}, 1, many_slots(), {5, 64}, 3},
                    Case{"all_slots_large_tile", {4, 1, 64}, 17, many_slots(), {17, 64}},
                    Case{"nothing_to_see", {9, 3, 64}, 3, {{0, 64}}},
                    Case{"nothing_to_see_at_all", {8, 1, 128}, 19, {}},
                    Case{"nearly_one_hot", {3, 1, 64}, 33, {{300, 320}}, {33, 64}, 0, 10.0},
                    Case{"maximum_grows_by_far", {3, 1, 128}, 33, {{300, 320}}, {33, 64}, 0, 30.0}),
    [](const auto& instance) { return instance.param.name; });

Case random_case(Random& random, std::int64_t most_keys) {
  constexpr int groups[] = {1, 2, 3, 4, 7, 8};
  Case tested{.name = "random", .shape = {}, .rows = random.integer(1, most_keys / 4), .visible = {}};
  tested.shape.kv_heads = static_cast<int>(random.integer(1, 2));
  tested.shape.heads = tested.shape.kv_heads * groups[random.integer(0, 5)];
  tested.shape.head_dim = random.integer(0, 1) == 0 ? 64 : 128;
  const auto slot = [&] {
    const auto count = static_cast<int>(random.integer(0, 3) == 0 ? 0 : random.integer(1, most_keys / 4));
    return SlotSize{count, (count / tile + 1) * tile};
  };
  for (std::int64_t i = random.integer(0, 3); i > 0; --i) tested.visible.push_back(slot());
  tested.causal = slot();
  tested.causal_before = random.integer(-most_keys / 8, most_keys / 4);
  return tested;
}

TEST(Attention, AgreesAtRandomShapes) {
  const bool large = std::getenv("APB_GPU_TESTS") != nullptr;
  Random random;
  for (int i = 0; i < (large ? 40 : 4); ++i) {
    const Case tested = random_case(random, large ? 1200 : 320);
    SCOPED_TRACE(testing::Message() << "case " << i << ": " << tested.rows << " rows, " << tested.shape.heads << "/"
                                    << tested.shape.kv_heads << " heads of " << tested.shape.head_dim << ", causal "
                                    << tested.causal.count << " before " << tested.causal_before);
    expect_attention(random, tested);
  }
}

TEST(Attention, AgreesAtLargeShapes) {
  if (std::getenv("APB_GPU_TESTS") == nullptr) GTEST_SKIP() << "needs a GPU and APB_GPU_TESTS=large";
  Random random;
  expect_attention(random, {"causal", {4, 1, 128}, 4096, {}, {4096, 4096}}, 97);
  expect_attention(random, {"block", {12, 4, 64}, 3000, {{1000, 1024}, {500, 512}, {511, 512}}, {3000, 3008}}, 97);
  expect_attention(random, {"decode", {8, 2, 128}, 1, {{60000, 60032}, {70001, 70016}}, {3, 64}, 2});
  expect_attention(random, {"question", {8, 2, 128}, 45, {{20000, 20032}}, {45, 64}}, 11);
}

TEST(Attention, NaNStaysInItsRows) {
  Random random;
  const Case tested{"nan", {4, 2, 64}, 40, {{70, 128}}, {40, 64}};
  Problem problem(random, tested);
  const auto is_nan = [&](const Numbers& numbers, std::int64_t row, int head) {
    const auto first = static_cast<std::size_t>((row * tested.shape.heads + head) * tested.shape.head_dim);
    return std::all_of(&numbers[first], &numbers[first] + tested.shape.head_dim,
                       [](double x) { return std::isnan(x); });
  };
  problem.spoil_query(3, 1, std::nan(""));
  problem.slot(1).spoil_key(1, 20, tested.shape, std::nan(""));  // causal: rows 20 and later of heads 2 and 3
  const Result result = problem.run({});
  for (std::int64_t row = 0; row < tested.rows; ++row) {
    for (int head = 0; head < tested.shape.heads; ++head) {
      const bool expected = (row == 3 && head == 1) || (row >= 20 && head >= 2);
      EXPECT_EQ(is_nan(result.output, row, head), expected) << "row " << row << " head " << head;
      EXPECT_EQ(std::isnan(result.log_sum_exp[static_cast<std::size_t>(row * tested.shape.heads + head)]), expected);
    }
  }
}

TEST(Attention, InfiniteScoresMakeNaN) {
  Random random;
  const Case tested{"infinite", {1, 1, 64}, 2, {{70, 128}}, {0, 64}};
  Problem problem(random, tested);
  problem.spoil_query(1, 0, std::numeric_limits<double>::infinity());
  const Result result = problem.run({});
  EXPECT_FALSE(std::isnan(result.output.front()));
  EXPECT_TRUE(std::isnan(result.output.back()));
}

TEST(Attention, NoRowsAreNoWork) {
  Random random;
  const Problem problem(random, {"empty", {2, 1, 64}, 0, {{70, 128}}, {0, 64}});
  EXPECT_TRUE(problem.run({}).output.empty());
}

TEST(Attention, RefusesWhatItCannotDo) {
  Random random;
  const DeviceMatrix output(DataType::f32, 1, 96);
  const Problem head_dim(random, {"head_dim", {1, 1, 96}, 1, {{1, 64}}, {0, 64}});
  EXPECT_EQ(head_dim.enqueue({}, output.view(), {}), cudaErrorInvalidValue);
  const std::vector<SlotSize> slots(largest_slot_table + 1, SlotSize{0, 64});
  const Problem too_many(random, {"slots", {1, 1, 64}, 1, slots, {0, 64}});
  EXPECT_EQ(too_many.enqueue({}, output.view(), {}), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace apb::cuda
