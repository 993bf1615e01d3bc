// The log-sum-exp merge against double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "arrays.hpp"
#include "compare.hpp"

namespace apb {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// One rank's share in host memory.
struct Share {
  Numbers output;       // [rows, heads * head_dim]
  Numbers log_sum_exp;  // [rows, heads]
};

std::vector<Share> random_shares(const HeadShape& shape, std::int64_t rows, int count, double largest_lse) {
  std::vector<Share> shares;
  for (int i = 0; i < count; ++i) {
    const auto seed = static_cast<unsigned>(2 * i);
    shares.push_back({random_numbers(rows * shape.query_columns(), 2.0, seed),
                      random_numbers(rows * shape.heads, largest_lse, seed + 1)});
  }
  return shares;
}

Numbers merged(const HeadShape& shape, DataType type, std::int64_t rows, const std::vector<Share>& shares) {
  return on_one_and_two_threads(type, [&](Device& device) {
    std::vector<Matrix> memory;
    std::vector<PartialAttention> partials;
    for (const auto& share : shares) {
      memory.push_back(filled(device, DataType::f32, rows, shape.query_columns(), share.output));
      memory.push_back(filled(device, DataType::f32, rows, shape.heads, share.log_sum_exp));
      partials.push_back({memory[memory.size() - 2].view, memory.back().view});
    }
    const Matrix out = poisoned(device, type, rows, shape.query_columns());
    device.merge(shape, partials, out.view);
    return read(out.view);
  });
}

Numbers expected_merge(const HeadShape& shape, std::int64_t rows, const std::vector<Share>& shares) {
  Numbers result;
  for (std::int64_t i = 0; i < rows * shape.query_columns(); ++i) {
    const auto head = static_cast<std::size_t>(i / shape.head_dim);  // of all rows
    double largest = -infinity;
    for (const auto& share : shares) largest = std::max(largest, share.log_sum_exp[head]);
    double sum = 0.0;
    double weights = 0.0;
    for (const auto& share : shares) {
      if (share.log_sum_exp[head] == -infinity) continue;
      const double weight = std::exp(share.log_sum_exp[head] - largest);
      sum += weight * share.output[static_cast<std::size_t>(i)];
      weights += weight;
    }
    result.push_back(weights == 0.0 ? 0.0 : sum / weights);
  }
  return result;
}

TEST(Merge, MatchesDoublePrecision) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const HeadShape& shape : {HeadShape{3, 1, 33}, HeadShape{4, 2, 16}, HeadShape{2, 2, 200}}) {
      for (const std::int64_t rows : {1, 7, 65}) {
        for (const int count : {1, 2, 5}) {
          const auto shares = random_shares(shape, rows, count, 4.0);
          EXPECT_CLOSE(merged(shape, type, rows, shares), expected_merge(shape, rows, shares), tolerance);
        }
      }
    }
  }
}

TEST(AddPartial, OneAfterTheOtherIsTheMerge) {
  const HeadShape shape{4, 2, 37};
  for (const std::int64_t rows : {1, 9}) {
    auto shares = random_shares(shape, rows, 4, 6.0);
    shares[0].log_sum_exp[1] = shares[2].log_sum_exp[1] = -infinity;  // seen by some
    for (auto& share : shares) share.log_sum_exp[3] = -infinity;      // seen by none
    for (std::size_t i = 0; i < 37; ++i) shares[0].output[3 * 37 + i] = 0.0;
    const auto out = on_one_and_two_threads(DataType::bf16, [&](Device& device) {
      const Matrix output = filled(device, DataType::f32, rows, shape.query_columns(), shares[0].output);
      const Matrix log_sum_exp = filled(device, DataType::f32, rows, shape.heads, shares[0].log_sum_exp);
      for (std::size_t i = 1; i < shares.size(); ++i) {
        const Matrix more = filled(device, DataType::f32, rows, shape.query_columns(), shares[i].output);
        const Matrix its = filled(device, DataType::f32, rows, shape.heads, shares[i].log_sum_exp);
        device.add_partial(shape, {more.view, its.view}, output.view, log_sum_exp.view);
      }
      Numbers result = read(output.view);
      const Numbers sums = read(log_sum_exp.view);
      result.insert(result.end(), sums.begin(), sums.end());
      return result;
    });
    const auto outputs = static_cast<std::ptrdiff_t>(rows * shape.query_columns());
    EXPECT_CLOSE(Numbers(out.begin(), out.begin() + outputs), expected_merge(shape, rows, shares), 1e-6);
    for (std::int64_t i = 0; i < rows * shape.heads; ++i) {
      double sum = 0.0;
      for (const auto& share : shares) sum += std::exp(share.log_sum_exp[static_cast<std::size_t>(i)]);
      EXPECT_NEAR(std::exp(out[static_cast<std::size_t>(outputs + i)]), sum, 1e-5 * sum);
    }
  }
}

TEST(Merge, IsSafeForLargeLogSumExp) {
  const HeadShape shape{2, 1, 8};
  auto shares = random_shares(shape, 3, 3, 1000.0);
  shares[0].log_sum_exp[0] = 30000.0;
  shares[1].log_sum_exp[0] = 30001.0;
  EXPECT_CLOSE(merged(shape, DataType::f32, 3, shares), expected_merge(shape, 3, shares), 1e-6);
}

TEST(Merge, LeavesOutSharesThatSawNoKey) {
  const HeadShape shape{2, 1, 5};
  auto shares = random_shares(shape, 2, 3, 1.0);
  shares[0].log_sum_exp = {-infinity, 0.5, -infinity, -infinity};
  shares[2].log_sum_exp = {1.0, -infinity, -infinity, 0.25};
  shares[1].log_sum_exp[2] = -infinity;  // nobody saw a key
  for (std::size_t i = 0; i < 5; ++i) shares[0].output[i] = std::nan("");
  const Numbers out = merged(shape, DataType::f32, 2, shares);
  const Numbers expected = expected_merge(shape, 2, shares);
  EXPECT_CLOSE(out, expected, 1e-6);
  EXPECT_EQ(Numbers(out.begin() + 10, out.begin() + 15), Numbers(5, 0.0));
}

TEST(Merge, ShowsNan) {
  const HeadShape shape{1, 1, 4};
  auto shares = random_shares(shape, 1, 2, 1.0);
  shares[1].log_sum_exp[0] = std::nan("");
  for (const double value : merged(shape, DataType::f32, 1, shares)) EXPECT_TRUE(std::isnan(value));
}

TEST(Merge, IsZeroWithoutShares) { EXPECT_EQ(merged({1, 1, 4}, DataType::f32, 1, {}), Numbers(4, 0.0)); }

}  // namespace
}  // namespace apb
