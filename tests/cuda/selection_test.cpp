// Scores against double precision and their definitions, and the choice of the highest against a sort.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "compare.hpp"
#include "cuda/cases.hpp"
#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"

namespace apb::cuda {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(MeanQuery, AveragesRowsAndTheHeadsOfAGroup) {
  Random random;
  for (const HeadShape& shape : {HeadShape{6, 2, 64}, HeadShape{3, 3, 128}, HeadShape{4, 1, 64}}) {
    for (const std::int64_t rows : {0, 1, 7, 65}) {
      const DeviceMatrix query(DataType::bf16, rows, shape.query_columns(), shape.query_columns() + gap(8),
                               random.numbers(rows * shape.query_columns(), 3.0));
      const DeviceMatrix mean(DataType::f32, shape.kv_heads, shape.head_dim);
      check(mean_query(nullptr, shape, query.view(), mean.view()));
      const Numbers numbers = query.read();
      Numbers expected(static_cast<std::size_t>(shape.kv_heads * shape.head_dim));
      const int group = shape.heads / shape.kv_heads;
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const auto column = static_cast<int>(i) % shape.query_columns();
        const int kv_head = column / shape.head_dim / group;
        expected[static_cast<std::size_t>(kv_head * shape.head_dim + column % shape.head_dim)] +=
            numbers[i] / static_cast<double>(rows * group);
      }
      EXPECT_CLOSE(mean.read(), expected, 2e-6);
      EXPECT_TRUE(mean.poison_is_whole());
    }
  }
}

TEST(ScoreSimilarity, IsTheDotProductWithEachKey) {
  Random random;
  for (const HeadShape& shape : {HeadShape{6, 2, 64}, HeadShape{9, 9, 128}, HeadShape{3, 1, 128}}) {
    std::vector<int> token_counts{0, 1, 31, 32, 101};
    if (large_tests()) token_counts.push_back(8191);
    for (const int tokens : token_counts) {
      const int capacity = tokens / tile * tile + tile;
      const std::int64_t head_rows = std::int64_t{2} * capacity;
      const DeviceMatrix keys(DataType::bf16, shape.kv_heads * head_rows, shape.head_dim, shape.head_dim,
                              random.numbers(shape.kv_heads * head_rows * shape.head_dim, 2.0));
      const DeviceMatrix mean(DataType::f32, shape.kv_heads, shape.head_dim, shape.head_dim,
                              random.numbers(shape.kv_heads * shape.head_dim, 2.0));
      const DeviceMatrix scores(DataType::f32, tokens, shape.kv_heads, shape.kv_heads + gap(1));
      check(score_similarity(nullptr, shape, mean.view(), {{keys.view().data, capacity}, tokens}, scores.view()));
      const Numbers key_numbers = keys.read();
      const Numbers mean_numbers = mean.read();
      Numbers expected;
      for (std::int64_t token = 0; token < tokens; ++token) {
        for (std::int64_t head = 0; head < shape.kv_heads; ++head) {
          const auto weights = mean_numbers.begin() + head * shape.head_dim;
          expected.push_back(std::inner_product(weights, weights + shape.head_dim,
                                                key_numbers.begin() + (head * head_rows + token) * shape.head_dim,
                                                0.0));
        }
      }
      if (tokens > 0) {
        EXPECT_CLOSE(scores.read(), expected, 2e-6);
      }
      EXPECT_TRUE(scores.poison_is_whole());
    }
  }
}

/// The generator of Steele, Lea and Flood, one number from a state.
std::uint64_t splitmix64(std::uint64_t state) {
  std::uint64_t z = state + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

TEST(ScoreRandom, IsTheHashOfItsDefinition) {
  ASSERT_EQ(splitmix64(0), 0xE220A8397B1DCDAFULL);  // the published first number of seed 0
  Random random;
  const auto any = [&] {
    return static_cast<std::uint64_t>(random.integer(0, std::numeric_limits<std::int64_t>::max()));
  };
  for (const std::int64_t heads : {1, 3, 8}) {
    const RandomScoreKey key{.seed = any(), .document = any(), .layer = any()};
    const std::int64_t first_position = random.integer(0, 10000000);
    const DeviceMatrix scores(DataType::f32, 65, heads, heads + gap(1));
    check(score_random(nullptr, key, first_position, scores.view()));
    Numbers expected;
    for (std::int64_t token = 0; token < 65; ++token) {
      for (std::int64_t head = 0; head < heads; ++head) {
        std::uint64_t state = splitmix64(key.seed);
        for (const std::uint64_t value : {key.document, key.layer, static_cast<std::uint64_t>(head),
                                          static_cast<std::uint64_t>(first_position + token)}) {
          state = splitmix64(state ^ value);
        }
        expected.push_back(static_cast<double>(state >> 40) / 16777216.0);
      }
    }
    EXPECT_EQ(scores.read(), expected);
    EXPECT_TRUE(scores.poison_is_whole());
  }
}

TEST(ScoreRecent, IsThePosition) {
  const DeviceMatrix scores(DataType::f32, 3, 2, 2 + gap(2));
  check(score_recent(nullptr, 1000, scores.view()));
  EXPECT_EQ(scores.read(), (Numbers{1000, 1000, 1001, 1001, 1002, 1002}));
  EXPECT_TRUE(scores.poison_is_whole());
  check(score_recent(nullptr, 1000, DeviceMatrix(DataType::f32, 0, 2).view()));
}

struct SelectCase {
  std::int64_t tokens;
  std::int64_t heads;
  int window;
  int excluded;
  std::int64_t count;
};

Numbers selected(const SelectCase& wanted, const Numbers& scores) {
  const auto& [tokens, heads, window, excluded, count] = wanted;
  const DeviceMatrix input(DataType::f32, tokens, heads, heads + gap(heads % 3), scores);
  const DeviceMatrix out(DataType::i32, heads, count, count + gap(2));
  const DeviceMatrix again(DataType::i32, heads, count, count + gap(2));
  const DeviceBytes memory(select_workspace(tokens, static_cast<int>(heads)));
  const Workspace workspace{memory.data(), memory.bytes()};
  check(select(nullptr, input.view(), window, excluded, out.view(), workspace));
  check(select(nullptr, input.view(), window, excluded, again.view(), workspace));  // with what the first has left
  EXPECT_EQ(out.bytes(), again.bytes());
  EXPECT_TRUE(out.poison_is_whole());
  return out.read();
}

Numbers expected_selection(const SelectCase& wanted, const Numbers& scores) {
  Numbers result;
  for (std::int64_t head = 0; head < wanted.heads; ++head) {
    Numbers pooled;
    for (std::int64_t token = 0; token < wanted.tokens; ++token) {
      double largest = -infinity;
      for (std::int64_t at = token - wanted.window / 2; at <= token + wanted.window / 2; ++at) {
        if (at < 0 || at >= wanted.tokens) continue;
        largest = std::max(largest, scores[static_cast<std::size_t>(at * wanted.heads + head)]);
      }
      pooled.push_back(largest);
    }
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(wanted.tokens - wanted.excluded));
    std::iota(tokens.begin(), tokens.end(), wanted.excluded);
    std::stable_sort(tokens.begin(), tokens.end(), [&](auto left, auto right) {
      return pooled[static_cast<std::size_t>(left)] > pooled[static_cast<std::size_t>(right)];
    });
    std::sort(tokens.begin(), tokens.begin() + wanted.count);
    result.insert(result.end(), tokens.begin(), tokens.begin() + wanted.count);
  }
  return result;
}

Numbers random_scores(Random& random, std::int64_t count, double amplitude) {
  Numbers scores = random.numbers(count, amplitude);
  for (double& score : scores) score = static_cast<double>(static_cast<float>(score));
  return scores;
}

void expect_selection(const SelectCase& wanted, const Numbers& scores) {
  EXPECT_EQ(selected(wanted, scores), expected_selection(wanted, scores))
      << wanted.tokens << " tokens, " << wanted.heads << " heads, window " << wanted.window << ", excluded "
      << wanted.excluded << ", count " << wanted.count;
}

TEST(Select, TakesTheHighestInAscendingOrder) {
  Random random;
  std::vector<std::int64_t> sizes{1, 7, 65, 1000};
  if (large_tests()) sizes.insert(sizes.end(), {8192, 131071});
  for (const std::int64_t tokens : sizes) {
    for (const double excluded_part : {0.0, 0.3, 1.0}) {
      for (const double count_part : {0.0, 0.1, 1.0}) {
        const auto excluded = static_cast<int>(excluded_part * static_cast<double>(tokens));
        const auto count = static_cast<std::int64_t>(count_part * static_cast<double>(tokens - excluded));
        const int window = 1 + 2 * static_cast<int>(random.integer(0, 4));
        expect_selection({tokens, 3, window, excluded, count}, random_scores(random, tokens * 3, 1e30));
      }
    }
  }
}

TEST(Select, CrossesTilesAndGroupsOfHeads) {
  Random random;
  for (const std::int64_t count : {1, 2048, 4500}) {
    expect_selection({5001, 1, 5, 17, count}, random_scores(random, 5001, 1.0));
  }
  expect_selection({2048, 1, 5, 0, 300}, random_scores(random, 2048, 1.0));
  expect_selection({300, 11, 5, 5, 70}, random_scores(random, 3300, 1.0));
  expect_selection({300, 1, 1001, 0, 70}, random_scores(random, 300, 1.0));
  expect_selection({40, 2, largest_pool_window, 0, 7}, random_scores(random, 80, 1.0));
  if (large_tests()) {
    expect_selection({3000001, 2, 5, 4096, 8192}, random_scores(random, 6000002, 1.0));
    expect_selection({1000000, 8, 5, 0, 100000}, random_scores(random, 8000000, 1e-3));
  }
}

TEST(Select, TakesTheLowerTokenOnTies) {
  Random random;
  Numbers scores = random.numbers(400, 3.0);
  for (double& score : scores) score = std::round(score);  // seven different values, two zeros among them
  expect_selection({200, 2, 1, 3, 50}, scores);
  Numbers many = random.numbers(5000, 1.0);
  for (double& score : many) score = std::round(score);
  for (const std::int64_t count : {1, 2000, 3000, 4990}) expect_selection({5000, 1, 1, 10, count}, many);
  expect_selection({5000, 1, 1, 0, 3000}, Numbers(5000, 0.25));
  EXPECT_EQ(selected({4, 1, 1, 0, 2}, {0.0, -0.0, 0.0, -0.0}), (Numbers{0, 1}));
  EXPECT_EQ(selected({4, 1, 1, 0, 2}, {-0.0, -0.0, 0.0, 0.0}), (Numbers{0, 1}));
}

TEST(Select, OrdersNeighbouringNumbers) {
  Numbers scores;  // numbers that differ in the last bit, of both signs, in an order that is neither up nor down
  for (int i = 0; i < 301; ++i) {
    const int step = i * 151 % 301 - 150;
    const float near_one = 1.0F + static_cast<float>(std::abs(step)) * 0x1p-23F;
    scores.push_back(static_cast<double>(step < 0 ? -near_one : near_one));
  }
  for (const std::int64_t count : {1, 149, 150, 151, 152, 153, 300}) expect_selection({301, 1, 1, 0, count}, scores);
}

TEST(Select, ExcludesAfterPooling) {
  EXPECT_EQ(selected({5, 1, 3, 2, 1}, {0.0, 9.0, 0.0, 5.0, 0.0}), Numbers{2});
  EXPECT_EQ(selected({5, 1, 1, 2, 1}, {0.0, 9.0, 0.0, 5.0, 0.0}), Numbers{3});
}

TEST(Select, TakesNanForTheLowest) {
  const double nan = std::nan("");
  EXPECT_EQ(selected({5, 1, 1, 0, 2}, {nan, -2.0, nan, -infinity, -1e38}), (Numbers{1, 4}));
  EXPECT_EQ(selected({5, 1, 1, 0, 4}, {nan, infinity, -infinity, -3.0, nan}), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(selected({4, 1, 1, 1, 2}, {nan, nan, nan, nan}), (Numbers{1, 2}));
  EXPECT_EQ(selected({4, 1, 3, 0, 2}, {nan, nan, -1.0, nan}), (Numbers{1, 2}));
}

TEST(Select, RefusesWhatItHasNoRoomFor) {
  const DeviceMatrix scores(DataType::f32, 10, 2, 2, Numbers(20, 1.0));
  const DeviceMatrix positions(DataType::i32, 2, 5);
  const DeviceBytes memory(select_workspace(10, 2));
  EXPECT_NE(select(nullptr, scores.view(), 1, 0, positions.view(), {memory.data(), memory.bytes() - 1}), cudaSuccess);
  EXPECT_NE(
      select(nullptr, scores.view(), largest_pool_window + 2, 0, positions.view(), {memory.data(), memory.bytes()}),
      cudaSuccess);
}

}  // namespace
}  // namespace apb::cuda
