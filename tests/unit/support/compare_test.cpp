#include "compare.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace apb {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST(Compare, ErrorIsRelativeToTheLargestExpectedValue) {
  const std::vector<float> actual = {1.0F, -4.0F, 2.5F};
  const std::vector<double> expected = {1.25, -4.0, 2.0};
  EXPECT_EQ(difference(actual, expected).relative, 0.125);
  EXPECT_EQ(difference(actual, expected).worst_index, 2U);
  EXPECT_EQ(relative_error(expected, expected), 0.0);
  EXPECT_EQ(relative_error(std::vector{0.0}, std::vector{0.0}), 0.0);
}

TEST(Compare, NothingThatIsNotANumberPasses) {
  const std::vector<double> good = {1.0, 2.0, 3.0};
  for (const double bad : {nan, infinity, -infinity}) {
    EXPECT_EQ(relative_error(std::vector{1.0, bad, 3.0}, good), infinity);
    EXPECT_EQ(relative_error(good, std::vector{1.0, bad, 3.0}), infinity);
    EXPECT_EQ(relative_error(std::vector{bad}, std::vector{bad}), infinity);
    EXPECT_FALSE(is_close(std::vector{1.0, 2.0, bad}, good, 1e30));
  }
}

TEST(Compare, OtherSizesNothingAndAZeroReferenceAreInfinitelyFar) {
  const std::vector<double> good = {1.0, 2.0, 3.0};
  EXPECT_EQ(relative_error(std::vector{1.0, 2.0}, good), infinity);
  EXPECT_EQ(relative_error(std::vector<double>{}, std::vector<double>{}), infinity);
  EXPECT_EQ(relative_error(std::vector{1e-9}, std::vector{0.0}), infinity);
}

TEST(Compare, MessageNamesTheWorstIndex) {
  const auto result = is_close(std::vector{1.0, 2.5, 3.0}, std::vector{1.0, 2.0, 4.0}, 0.1);
  ASSERT_FALSE(result);
  const std::string message = result.message();
  EXPECT_NE(message.find("index 2 of 3: 3 where 4"), std::string::npos) << message;
  EXPECT_TRUE(is_close(std::vector{1.0, 2.5, 3.0}, std::vector{1.0, 2.0, 4.0}, 0.25));
}

}  // namespace
}  // namespace apb
