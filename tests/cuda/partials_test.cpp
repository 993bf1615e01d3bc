// Merging partial attention outputs in place against double precision.
#include <gtest/gtest.h>

#include <cmath>

#include "cases.hpp"
#include "compare.hpp"
#include "cuda/kernels.hpp"
#include "device_memory.hpp"

namespace apb::cuda {
namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

/// Outputs and log-sum-exps of rows of heads, some of which have seen nothing.
struct Partial {
  Numbers output;
  Numbers log_sum_exp;

  Partial(Random& random, const HeadShape& shape, std::int64_t rows)
      : output(random.numbers(rows * shape.query_columns())), log_sum_exp(random.numbers(rows * shape.heads, 30.0)) {
    for (std::size_t i = 0; i < log_sum_exp.size(); ++i) {
      log_sum_exp[i] = static_cast<double>(static_cast<float>(log_sum_exp[i]));
      if (random.integer(0, 3) > 0) continue;
      log_sum_exp[i] = minus_infinity;
      const auto first = output.begin() + static_cast<std::ptrdiff_t>(i) * shape.head_dim;
      std::fill(first, first + shape.head_dim, 0.0);
    }
  }
};

void add(const HeadShape& shape, const Partial& added, Partial& running) {
  for (std::size_t i = 0; i < running.log_sum_exp.size(); ++i) {
    const double largest = std::max(running.log_sum_exp[i], added.log_sum_exp[i]);
    if (largest == minus_infinity) continue;
    const double before = std::exp(running.log_sum_exp[i] - largest);
    const double more = std::exp(added.log_sum_exp[i] - largest);
    running.log_sum_exp[i] = largest + std::log(before + more);
    for (std::size_t k = 0; k < static_cast<std::size_t>(shape.head_dim); ++k) {
      double& out = running.output[i * static_cast<std::size_t>(shape.head_dim) + k];
      out = (before * out + more * added.output[i * static_cast<std::size_t>(shape.head_dim) + k]) / (before + more);
    }
  }
}

/// Numbers of which some are -inf must be the same there, and close elsewhere.
void expect_close_where_finite(const Numbers& actual, const Numbers& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  Numbers finite_actual{0.0};
  Numbers finite_expected{0.0};
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isinf(expected[i])) {
      EXPECT_EQ(actual[i], expected[i]) << i;
    } else {
      finite_actual.push_back(actual[i]);
      finite_expected.push_back(expected[i]);
    }
  }
  EXPECT_CLOSE(finite_actual, finite_expected, 2e-6);
}

TEST(Partials, AreAddedInPlace) {
  Random random;
  for (const HeadShape& shape : {HeadShape{4, 2, 64}, HeadShape{3, 1, 128}, HeadShape{5, 5, 40}}) {
    for (const std::int64_t rows : {std::int64_t{0}, std::int64_t{1}, std::int64_t{37}}) {
      SCOPED_TRACE(testing::Message() << shape.heads << " heads of " << shape.head_dim << ", " << rows << " rows");
      Partial running(random, shape, rows);
      const Partial added(random, shape, rows);
      const auto matrix = [&](const Numbers& numbers, std::int64_t columns, std::int64_t gap) {
        return DeviceMatrix(DataType::f32, rows, columns, columns + gap, numbers);
      };
      const DeviceMatrix output = matrix(running.output, shape.query_columns(), 4);
      const DeviceMatrix log_sum_exp = matrix(running.log_sum_exp, shape.heads, 1);
      const DeviceMatrix added_output = matrix(added.output, shape.query_columns(), 8);
      const DeviceMatrix added_log_sum_exp = matrix(added.log_sum_exp, shape.heads, 3);
      check(add_partial(nullptr, shape, {added_output.view(), added_log_sum_exp.view()}, output.view(),
                        log_sum_exp.view()));
      add(shape, added, running);
      if (rows > 0) {
        EXPECT_CLOSE(output.read(), running.output, 2e-6);
        expect_close_where_finite(log_sum_exp.read(), running.log_sum_exp);
      }
      EXPECT_TRUE(output.poison_is_whole());
      EXPECT_TRUE(log_sum_exp.poison_is_whole());
    }
  }
}

}  // namespace
}  // namespace apb::cuda
