// Scores and the choice of the highest, against plain double precision code.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "arrays.hpp"
#include "compare.hpp"
#include "cpu/key_value_layout.hpp"
#include "cpu/rows.hpp"

namespace apb {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(MeanQuery, AveragesRowsAndTheHeadsOfAGroup) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const HeadShape& shape : {HeadShape{6, 2, 33}, HeadShape{3, 3, 16}, HeadShape{4, 1, 8}}) {
      for (const std::int64_t rows : {1, 7, 65}) {
        Numbers query;
        const Numbers mean = on_one_and_two_threads(type, [&, type = type](Device& device) {
          const Matrix input = random_matrix(device, type, rows, shape.query_columns(), 3.0, 1);
          query = read(input.view);
          const Matrix out = poisoned(device, DataType::f32, shape.kv_heads, shape.head_dim);
          device.mean_query(shape, input.view, out.view);
          return read(out.view);
        });
        const int group = shape.heads / shape.kv_heads;
        Numbers expected(static_cast<std::size_t>(shape.kv_heads * shape.head_dim));
        for (std::size_t i = 0; i < query.size(); ++i) {
          const auto column = static_cast<int>(i) % shape.query_columns();
          const int kv_head = column / shape.head_dim / group;
          expected[static_cast<std::size_t>(kv_head * shape.head_dim + column % shape.head_dim)] +=
              query[i] / static_cast<double>(rows * group);
        }
        EXPECT_CLOSE(mean, expected, 1e-6);
      }
    }
  }
}

TEST(ScoreSimilarity, IsTheDotProductWithEachKey) {
  const HeadShape shape{4, 2, 40};
  for (const auto& [type, tolerance] : type_cases) {
    for (const int tokens : {1, 31, 300, 1000}) {
      const int capacity = (tokens + 31) / 32 * 32;
      Numbers expected;
      const Numbers scores = on_one_and_two_threads(type, [&, type = type](Device& device) {
        const Matrix mean = random_matrix(device, DataType::f32, 2, 40, 2.0, 2);
        const Matrix keys = random_matrix(device, type, 2 * capacity, 40, 2.0, 3);
        const Buffer memory = device.allocate(device.slot_bytes(capacity, shape));
        std::memset(memory.data(), 0xFF, memory.bytes());
        const Slot slot{memory.data(), capacity};
        const Numbers mean_values = read(mean.view);
        expected.assign(static_cast<std::size_t>(2 * tokens), 0.0);
        cpu::with_element(type, [&]<typename Element>(Element) {
          for (int head = 0; head < 2; ++head) {
            const cpu::HeadLayout<Element> layout(slot, 40, head);
            for (int token = 0; token < tokens; ++token) {
              const auto* key = cpu::row_of<Element>(keys.view, head * capacity + token);
              double& dot = expected[static_cast<std::size_t>(2 * token + head)];
              for (int i = 0; i < 40; ++i) {
                layout.key(token, i) = key[i];
                dot += double{cpu::to_float(key[i])} * mean_values[static_cast<std::size_t>(head * 40 + i)];
              }
            }
          }
        });
        const Matrix out = poisoned(device, DataType::f32, tokens, 2);
        device.score_similarity(shape, mean.view, {slot, tokens}, out.view);
        return read(out.view);
      });
      EXPECT_CLOSE(scores, expected, 1e-6);
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
  const RandomScoreKey key{.seed = 42, .document = 7, .layer = 3};
  const Numbers scores = on_one_and_two_threads(DataType::f32, [&](Device& device) {
    const Matrix out = poisoned(device, DataType::f32, 65, 3);
    device.score_random(key, 100000, out.view);
    return read(out.view);
  });
  Numbers expected;
  for (std::uint64_t position = 100000; position < 100065; ++position) {
    for (std::uint64_t head = 0; head < 3; ++head) {
      std::uint64_t state = splitmix64(42);
      for (const std::uint64_t value : {std::uint64_t{7}, std::uint64_t{3}, head, position}) {
        state = splitmix64(state ^ value);
      }
      expected.push_back(static_cast<double>(state >> 40) / 16777216.0);
    }
  }
  EXPECT_EQ(scores, expected);
}

TEST(ScoreRecent, IsThePosition) {
  const Numbers scores = on_one_and_two_threads(DataType::f32, [&](Device& device) {
    const Matrix out = poisoned(device, DataType::f32, 3, 2);
    device.score_recent(1000, out.view);
    return read(out.view);
  });
  EXPECT_EQ(scores, (Numbers{1000, 1000, 1001, 1001, 1002, 1002}));
}

struct SelectCase {
  std::int64_t tokens;
  std::int64_t heads;
  int window;
  int excluded;
  std::int64_t count;
};

Numbers selected(const SelectCase& wanted, const Numbers& scores) {
  return on_one_and_two_threads(DataType::f32, [&](Device& device) {
    const Matrix input = filled(device, DataType::f32, wanted.tokens, wanted.heads, scores);
    const Matrix out = poisoned(device, DataType::i32, wanted.heads, wanted.count);
    device.select(input.view, wanted.window, wanted.excluded, out.view);
    return read(out.view);
  });
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

TEST(Select, TakesTheHighestInAscendingOrder) {
  for (const std::int64_t tokens : {1, 7, 65, 1000}) {
    for (const int window : {1, 3, 5, 9}) {
      for (const double excluded_part : {0.0, 0.3, 1.0}) {
        const auto excluded = static_cast<int>(excluded_part * static_cast<double>(tokens));
        for (const double count_part : {0.0, 0.1, 0.5, 1.0}) {
          const auto count = static_cast<std::int64_t>(count_part * static_cast<double>(tokens - excluded));
          const SelectCase wanted{tokens, 3, window, excluded, count};
          Numbers scores = random_numbers(tokens * 3, 1e30, 4);
          for (double& score : scores) score = static_cast<float>(score);
          EXPECT_EQ(selected(wanted, scores), expected_selection(wanted, scores))
              << tokens << " tokens, window " << window << ", excluded " << excluded << ", count " << count;
        }
      }
    }
  }
}

TEST(Select, TakesTheLowerTokenOnTies) {
  const SelectCase wanted{200, 2, 1, 3, 50};
  Numbers scores = random_numbers(400, 3.0, 5);
  for (double& score : scores) score = std::round(score);  // seven different values, two zeros among them
  EXPECT_EQ(selected(wanted, scores), expected_selection(wanted, scores));
  EXPECT_EQ(selected({4, 1, 1, 0, 2}, {0.0, -0.0, 0.0, -0.0}), (Numbers{0, 1}));
  EXPECT_EQ(selected({4, 1, 1, 0, 2}, {-0.0, -0.0, 0.0, 0.0}), (Numbers{0, 1}));
}

TEST(Select, ExcludesAfterPooling) {
  EXPECT_EQ(selected({5, 1, 3, 2, 1}, {0.0, 9.0, 0.0, 5.0, 0.0}), Numbers{2});
  EXPECT_EQ(selected({5, 1, 1, 2, 1}, {0.0, 9.0, 0.0, 5.0, 0.0}), Numbers{3});
}

TEST(Select, TakesNanForTheLowest) {
  const double nan = std::nan("");
  EXPECT_EQ(selected({5, 1, 1, 0, 2}, {nan, -2.0, nan, -infinity, -1e38}), (Numbers{1, 4}));
  EXPECT_EQ(selected({4, 1, 1, 1, 2}, {nan, nan, nan, nan}), (Numbers{1, 2}));
}

TEST(Select, RefusesMoreTokensThanThereAre) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const Matrix scores = random_matrix(*device, DataType::f32, 10, 2, 1.0, 6);
  const Matrix positions = poisoned(*device, DataType::i32, 2, 8);
  EXPECT_THROW(device->select(scores.view, 1, 3, positions.view), std::invalid_argument);
  EXPECT_THROW(device->select(scores.view, 2, 0, positions.view), std::invalid_argument);
}

}  // namespace
}  // namespace apb
