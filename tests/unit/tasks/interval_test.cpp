// Intervals against published ones, closed forms and how often they hold the truth.
#include "tasks/interval.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace apb {
namespace {

std::vector<double> zeros_and_ones(int ones, int count) {
  std::vector<double> scores(static_cast<std::size_t>(count));
  std::fill_n(scores.begin(), ones, 1.0);
  return scores;
}

TEST(Interval, IsWilsonsAsPublished) {
  // Newcombe, Statistics in Medicine 17 (1998), table I, score method without continuity correction.
  struct Published {
    int ones, count;
    double low, high;
  };
  for (const auto& one : std::vector<Published>{
           {81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0.0000, 0.1611}, {1, 29, 0.0061, 0.1718}}) {
    const Estimate got = estimate_mean(zeros_and_ones(one.ones, one.count));
    EXPECT_NEAR(got.mean, static_cast<double>(one.ones) / one.count, 1e-12);
    EXPECT_NEAR(got.low, one.low, 5e-5);
    EXPECT_NEAR(got.high, one.high, 5e-5);
  }
}

TEST(Interval, EndsSolveWilsonsEquation) {
  const double z = 1.959963984540054;
  for (const auto& [ones, count] : std::vector<std::pair<int, int>>{{1, 1}, {3, 7}, {99, 100}, {100, 100}, {0, 25}}) {
    const Estimate got = estimate_mean(zeros_and_ones(ones, count));
    for (const double end : {got.low, got.high}) {
      // The distance of an end to the mean is z standard errors at that end (or the end is the mean itself, 0 or 1).
      EXPECT_NEAR(std::abs(got.mean - end), z * std::sqrt(end * (1 - end) / count), 1e-9) << ones << "/" << count;
    }
  }
}

/// Share of `trials` in which the interval holds the mean of `draw`'s scores.
template <typename Draw>
double coverage(int count, double truth, Draw draw) {
  constexpr int trials = 4000;
  int held = 0;
  for (int trial = 0; trial < trials; ++trial) {
    std::vector<double> scores(static_cast<std::size_t>(count));
    for (double& score : scores) score = draw();
    const Estimate got = estimate_mean(scores);
    held += got.low <= truth && truth <= got.high ? 1 : 0;
  }
  return static_cast<double>(held) / trials;
}

TEST(Interval, OfFractionalScoresHoldsTheTruthAsOftenAsItSays) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (const double truth : {0.5, 0.8, 0.95}) {
    for (const int answers : {4, 10}) {
      std::binomial_distribution<int> found(answers, truth);
      const double share = coverage(25, truth, [&] { return static_cast<double>(found(random)) / answers; });
      EXPECT_GT(share, 0.93) << truth << ", " << answers << " answers";
    }
  }
  std::binomial_distribution<int> found(4, 0.8);
  EXPECT_LT(coverage(100, 0.8, [&] { return found(random) / 4.0; }), 0.97);  // nor is it much too wide
}

TEST(Interval, EqualFractionsAreNotCertain) {
  const std::vector<double> scores(20, 0.75);
  const Estimate got = estimate_mean(scores);
  EXPECT_DOUBLE_EQ(got.mean, 0.75);
  for (const double end : {got.low, got.high}) {  // twenty samples with a variance of a 21st of the greatest
    EXPECT_NEAR(std::abs(0.75 - end), 1.959963984540054 * std::sqrt(end * (1 - end) / (20 * 21)), 1e-9);
  }
}

TEST(Interval, OfAnAverageAddsTheSquares) {
  const std::vector<Estimate> two = {{.mean = 0.5, .low = 0.2, .high = 0.6}, {.mean = 0.9, .low = 0.5, .high = 1.0}};
  const Estimate got = average_of(two);
  EXPECT_NEAR(got.mean, 0.7, 1e-12);
  EXPECT_NEAR(got.low, 0.7 - 0.5 / 2, 1e-12);  // 3, 4, 5
  EXPECT_NEAR(got.high, 0.7 + std::sqrt(0.02) / 2, 1e-12);
  const Estimate one = average_of(std::vector<Estimate>{two[1]});
  EXPECT_NEAR(one.low, 0.5, 1e-12);
  EXPECT_NEAR(one.high, 1.0, 1e-12);
}

}  // namespace
}  // namespace apb
