#include "model/random_weights.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "expect_error.hpp"
#include "model/shapes.hpp"

namespace apb {
namespace {

std::vector<double> numbers_of(const ConstView& view) {
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < view.rows * view.columns; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, view.data + i * 2, sizeof bits);
    numbers.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U));
  }
  return numbers;
}

double correlation(const std::vector<double>& a, std::size_t shift) {
  double product = 0.0;
  double square = 0.0;
  for (std::size_t i = 0; i + shift < a.size(); ++i) product += a[i] * a[i + shift];
  for (const double value : a) square += value * value;
  return product / square;
}

TEST(RandomWeights, AreNearNormalWithADeviationThatKeepsActivations) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  const HostMatrix matrix = RandomWeights(seed, 2).tensor("some.weight", 701, 337);
  ASSERT_EQ(matrix.view.type, DataType::bf16);
  ASSERT_EQ(matrix.view.rows, 701);
  ASSERT_EQ(matrix.view.columns, 337);
  const auto numbers = numbers_of(matrix.view);
  double sum = 0.0;
  double squares = 0.0;
  double within_one = 0.0;
  const double deviation = 1.0 / std::sqrt(337.0);
  for (const double number : numbers) {
    ASSERT_LT(std::abs(number), 4 * deviation);
    sum += number;
    squares += number * number;
    within_one += std::abs(number) < deviation ? 1.0 : 0.0;
  }
  const auto count = static_cast<double>(numbers.size());
  EXPECT_NEAR(sum / count / deviation, 0.0, 0.015);
  EXPECT_NEAR(std::sqrt(squares / count) / deviation, 1.0, 0.015);
  EXPECT_NEAR(within_one / count, 0.6827, 0.02);
  for (const std::size_t shift : {1, 2, 337, 65536}) EXPECT_NEAR(correlation(numbers, shift), 0.0, 0.015) << shift;
}

TEST(RandomWeights, DependOnSeedAndNameAndOnNothingElse) {
  const auto numbers = [](std::uint64_t seed, const char* name, int threads) {
    return numbers_of(RandomWeights(seed, threads).tensor(name, 300, 501).view);
  };
  EXPECT_EQ(numbers(3, "a.weight", 1), numbers(3, "a.weight", 3));
  EXPECT_NE(numbers(3, "a.weight", 1), numbers(4, "a.weight", 1));
  EXPECT_NE(numbers(3, "a.weight", 1), numbers(3, "b.weight", 1));
}

TEST(RandomWeights, NormsAreOneAndBiasesSmall) {
  const RandomWeights weights(1, 1);
  EXPECT_EQ(numbers_of(weights.tensor("model.layers.0.input_layernorm.weight", 1, 5).view),
            std::vector<double>(5, 1.0));
  double largest = 0.0;
  for (const double value : numbers_of(weights.tensor("model.layers.0.self_attn.q_proj.bias", 1, 4096).view)) {
    largest = std::max(largest, std::abs(value));
  }
  EXPECT_GT(largest, 0.02);
  EXPECT_LT(largest, 0.1);
}

TEST(Shapes, AreConsistentAndKnownByName) {
  for (const auto& name : shape_names()) {
    const ModelConfig config = shape_named(name);
    EXPECT_EQ(config.heads % config.kv_heads, 0) << name;
    EXPECT_EQ(config.head_dim % 2, 0) << name;
    EXPECT_GT(std::min({config.layers, config.hidden, config.intermediate, config.vocabulary}), 0) << name;
    EXPECT_TRUE(config.eos_tokens.empty()) << name;
  }
  expect_error([] { shape_named("llama"); }, {"\"llama\"", "llama-3.1-8b", "tiny"});
}

}  // namespace
}  // namespace apb
