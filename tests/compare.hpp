// Comparing numbers with a reference: one error measure, which no NaN can pass.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace apb {

/// How far `actual` is from `expected`, and where it is furthest.
struct Difference {
  double relative = 0.0;        // max |actual - expected| / max |expected|
  std::size_t worst_index = 0;  // of the largest difference, or of the first value that is not finite
};

/// Compares two ranges of numbers. The error is infinite if the sizes differ, if there is nothing to compare, if
/// any value is NaN or infinite, or if all of `expected` is zero and `actual` is not.
template <typename Actual, typename Expected>
Difference difference(const Actual& actual, const Expected& expected) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size() || expected.size() == 0) return {infinity, 0};
  Difference result;
  double largest_difference = 0.0;
  double largest_expected = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto a = static_cast<double>(actual[i]);
    const auto e = static_cast<double>(expected[i]);
    if (!std::isfinite(a) || !std::isfinite(e)) return {infinity, i};
    largest_expected = std::max(largest_expected, std::abs(e));
    if (std::abs(a - e) > largest_difference) {
      largest_difference = std::abs(a - e);
      result.worst_index = i;
    }
  }
  if (largest_difference > 0.0) result.relative = largest_difference / largest_expected;
  return result;
}

/// The relative error alone; see difference().
template <typename Actual, typename Expected>
double relative_error(const Actual& actual, const Expected& expected) {
  return difference(actual, expected).relative;
}

/// Success if the relative error is at most `tolerance`; the message names the worst index and its two values.
template <typename Actual, typename Expected>
testing::AssertionResult is_close(const Actual& actual, const Expected& expected, double tolerance) {
  const Difference found = difference(actual, expected);
  if (found.relative <= tolerance) return testing::AssertionSuccess();
  if (actual.size() != expected.size() || expected.size() == 0) {
    return testing::AssertionFailure() << actual.size() << " values where " << expected.size()
                                       << " (at least 1) are expected";
  }
  return testing::AssertionFailure() << "relative error " << found.relative << " exceeds " << tolerance
                                     << "; worst at index " << found.worst_index << " of " << expected.size() << ": "
                                     << actual[found.worst_index] << " where " << expected[found.worst_index]
                                     << " is expected";
}

}  // namespace apb

#define EXPECT_CLOSE(actual, expected, tolerance) EXPECT_TRUE(::apb::is_close(actual, expected, tolerance))
#define ASSERT_CLOSE(actual, expected, tolerance) ASSERT_TRUE(::apb::is_close(actual, expected, tolerance))
