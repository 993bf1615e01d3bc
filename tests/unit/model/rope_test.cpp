#include "model/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "compare.hpp"
#include "temporary_folder.hpp"

namespace apb {
namespace {

ModelConfig rotary_config(int head_dim, double theta) {
  ModelConfig config;
  config.head_dim = head_dim;
  config.rope_theta = theta;
  return config;
}

// Every position from `first` on against long double; the table is double rounded to float once.
void expect_right_angles(int head_dim, double theta, std::int64_t positions, std::int64_t first) {
  const auto table = rotary_table(rotary_config(head_dim, theta), positions);
  ASSERT_EQ(table.size(), static_cast<std::size_t>(positions * head_dim));
  const int half = head_dim / 2;
  for (std::int64_t position = first; position < positions; ++position) {
    for (int i = 0; i < half; ++i) {
      const long double angle =
          static_cast<long double>(position) *
          std::pow(static_cast<long double>(theta), -2.0L * static_cast<long double>(i) / head_dim);
      const auto row = static_cast<std::size_t>(position * head_dim);
      const auto cosine = static_cast<long double>(table[row + static_cast<std::size_t>(i)]);
      const auto sine = static_cast<long double>(table[row + static_cast<std::size_t>(half + i)]);
      ASSERT_TRUE(std::abs(cosine - std::cos(angle)) <= 6.1e-8L) << "position " << position << ", pair " << i;
      ASSERT_TRUE(std::abs(sine - std::sin(angle)) <= 6.1e-8L) << "position " << position << ", pair " << i;
    }
  }
}

TEST(Rope, SmallPositions) {
  expect_right_angles(64, 10000.0, 301, 0);
  expect_right_angles(10, 500000.0, 77, 0);
  expect_right_angles(2, 10000.0, 5, 0);
}

TEST(Rope, LargePositions) { expect_right_angles(6, 500000.0, 1'048'577, 1'048'000); }

// The frequency of each pair: angles of position 1 lie within half a turn.
std::vector<double> frequencies_of(const ModelConfig& config) {
  const auto table = rotary_table(config, 2);
  const auto half = static_cast<std::size_t>(config.head_dim / 2);
  std::vector<double> result;
  for (std::size_t i = 2 * half; i < 3 * half; ++i) result.push_back(std::atan2(table[i + half], table[i]));
  return result;
}

TEST(Rope, LinearDividesThePosition) {
  ModelConfig config = rotary_config(10, 10000.0);
  const auto plain = rotary_table(config, 60);
  config.rope_scaling = {.kind = RopeScaling::Kind::linear, .factor = 4.0};
  const auto scaled = rotary_table(config, 240);
  for (std::size_t position = 0; position < 60; ++position) {
    for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(scaled[40 * position + i], plain[10 * position + i]);
  }
}

TEST(Rope, Llama3ScalesByTheTurnsOfAPair) {
  // With theta = 2^8 and 16 dimensions the frequency of pair i is 2^-i; 100 pi positions make 50 * 2^-i turns.
  ModelConfig config = rotary_config(16, 256.0);
  config.rope_scaling = {.kind = RopeScaling::Kind::llama3,
                         .factor = 10.0,
                         .original_positions = 100.0 * std::numbers::pi,
                         .low_frequency_factor = 2.0,
                         .high_frequency_factor = 12.0};
  const std::vector<double> kept = {1.0, 1.0, 1.0, 0.425, 0.1125, 0.0, 0.0, 0.0};  // (turns - 2) / 10 in [0, 1]
  std::vector<double> expected;
  for (int i = 0; i < 8; ++i) {
    const double part = kept[static_cast<std::size_t>(i)];
    expected.push_back(std::pow(2.0, -i) * (part + (1.0 - part) / 10.0));
  }
  EXPECT_CLOSE(frequencies_of(config), expected, 1e-7);
}

TEST(Rope, YarnRampsOverWholePairs) {
  // As above, pair i turns 50 * 2^-i times: 30 turns at pair 0.74, 3 at 4.06. The ramp goes from pair 0 to pair 5.
  ModelConfig config = rotary_config(16, 256.0);
  config.rope_scaling = {.kind = RopeScaling::Kind::yarn,
                         .factor = 10.0,
                         .original_positions = 100.0 * std::numbers::pi,
                         .beta_fast = 30.0,
                         .beta_slow = 3.0,
                         .attention_factor = 1.25};
  const std::vector<double> divided = {0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0};
  std::vector<double> expected;
  for (int i = 0; i < 8; ++i) {
    const double part = divided[static_cast<std::size_t>(i)];
    expected.push_back(std::pow(2.0, -i) * (1.0 - part + part / 10.0));
  }
  EXPECT_CLOSE(frequencies_of(config), expected, 1e-7);

  const auto table = rotary_table(config, 300);
  for (std::size_t i = 0; i < std::size_t{300} * 16; i += 16) {
    for (std::size_t pair = i; pair < i + 8; ++pair) {
      EXPECT_NEAR(std::hypot(table[pair], table[pair + 8]), 1.25, 1e-6);
    }
  }
}

TEST(Rope, EqualsAnotherProgramForPublishedModels) {
  const auto reference = nlohmann::json::parse(std::ifstream(std::string(APB_TEST_DATA) + "/family_reference.json"));
  ASSERT_GE(reference["rope"].size(), 7U);
  for (const auto& entry : reference["rope"]) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const TemporaryFolder folder;
    folder.write("config.json", entry["config"].dump());
    const ModelConfig config = load_config(folder.path());
    const auto frequencies = frequencies_of(config);
    const auto expected = entry["frequencies"].get<std::vector<double>>();
    ASSERT_EQ(frequencies.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(frequencies[i] / expected[i], 1.0, 2e-6) << "pair " << i;  // both are float32 somewhere
    }
    EXPECT_NEAR(rotary_table(config, 1)[0], entry["attention_factor"].get<double>(), 1e-6);
  }
}

TEST(Rope, NoPositions) { EXPECT_TRUE(rotary_table(rotary_config(8, 10000.0), 0).empty()); }

}  // namespace
}  // namespace apb
