#include "model/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>

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

TEST(Rope, NoPositions) { EXPECT_TRUE(rotary_table(rotary_config(8, 10000.0), 0).empty()); }

}  // namespace
}  // namespace apb
