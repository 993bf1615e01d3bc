// Kernels that treat each row for itself, against double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "compare.hpp"
#include "cuda/cases.hpp"
#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"

namespace apb::cuda {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
const double nan = std::nan("");

std::string describe(const RowShape& shape) {
  return std::to_string(shape.rows) + " rows of " + std::to_string(shape.columns) + ", stride " +
         std::to_string(shape.stride);
}

/// Close, and nothing written elsewhere; with no rows only the latter.
void expect_rows(const DeviceMatrix& actual, const Numbers& expected, double tolerance) {
  if (!expected.empty()) {
    EXPECT_CLOSE(actual.read(), expected, tolerance);
  }
  EXPECT_TRUE(actual.poison_is_whole());
}

TEST(Embed, TakesTheTokensRows) {
  Random random;
  for (const RowShape& shape : row_shapes()) {
    SCOPED_TRACE(describe(shape));
    constexpr std::int64_t vocabulary = 11;
    const DeviceMatrix table(DataType::bf16, vocabulary, shape.columns, shape.stride,
                             random.numbers(vocabulary * shape.columns));
    Numbers tokens;
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      tokens.push_back(static_cast<double>(random.integer(0, vocabulary - 1)));
    }
    const DeviceMatrix token_rows(DataType::i32, shape.rows, 1, 1, tokens);
    const DeviceMatrix out(DataType::f32, shape.rows, shape.columns, shape.stride);
    check(embed(nullptr, token_rows.view(), table.view(), out.view()));
    const Numbers rows = table.read();
    Numbers expected;
    for (const double token : tokens) {
      const auto first = rows.begin() + static_cast<std::int64_t>(token) * shape.columns;
      expected.insert(expected.end(), first, first + shape.columns);
    }
    EXPECT_EQ(out.read(), expected);
    EXPECT_TRUE(out.poison_is_whole());
  }
}

TEST(Embed, MakesNanOfTokensThatTheTableDoesNotHave) {
  Random random;
  const DeviceMatrix memory(DataType::bf16, 5, 16, 16, random.numbers(80));
  ConstView table = memory.view();
  table.data += 32;
  table.rows = 3;  // there are numbers before and behind it
  const DeviceMatrix tokens(DataType::i32, 4, 1, 1, {2, 3, -1, 0});
  const DeviceMatrix out(DataType::f32, 4, 16, 16);
  check(embed(nullptr, tokens.view(), table, out.view()));
  const Numbers rows = out.read();
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(std::isnan(rows[i]), i / 16 == 1 || i / 16 == 2) << i;
}

TEST(Convert, RoundsToTheNearest) {
  Random random;
  for (const RowShape& shape : row_shapes()) {
    for (const DataType from : {DataType::f32, DataType::bf16}) {
      for (const DataType to : {DataType::f32, DataType::bf16}) {
        SCOPED_TRACE(describe(shape));
        Numbers numbers = random.numbers(shape.rows * shape.columns, 1000.0);
        const Numbers special{0.0, -0.0, 1e-40, -3e38, infinity, -infinity, 1.00390625, 1.01171875};  // ties to even
        for (std::size_t i = 0; i < std::min(special.size(), numbers.size()); ++i) numbers[i] = special[i];
        const DeviceMatrix source(from, shape.rows, shape.columns, shape.stride, numbers);
        const DeviceMatrix out(to, shape.rows, shape.columns, shape.stride);
        check(convert(nullptr, source.view(), out.view()));
        const DeviceMatrix expected(to, shape.rows, shape.columns, shape.stride, source.read());  // rounded by the host
        EXPECT_EQ(out.bytes(), expected.bytes());
      }
    }
  }
}

TEST(Convert, TakesHalfPrecision) {
  // 0, -0, 1, smallest subnormal, largest, infinity, -2, 0.33325...
  const std::vector<std::uint16_t> bits{0x0000, 0x8000, 0x3C00, 0x0001, 0x7BFF, 0x7C00, 0xC000, 0x3555};
  const Numbers values{0.0, -0.0, 1.0, 0x1p-24, 65504.0, infinity, -2.0, 0x1.554p-2};
  std::vector<std::byte> bytes(16);
  std::memcpy(bytes.data(), bits.data(), 16);
  DeviceBytes memory(16);
  memory.upload(bytes);
  for (const std::int64_t columns : {8, 7}) {
    const ConstView source{memory.data(), DataType::f16, Space::device, 1, columns, columns};
    for (const DataType type : {DataType::f32, DataType::bf16}) {
      const DeviceMatrix out(type, 1, columns);
      check(convert(nullptr, source, out.view()));
      const DeviceMatrix expected(type, 1, columns, columns, {values.begin(), values.begin() + columns});
      EXPECT_EQ(out.bytes(), expected.bytes());
    }
  }
  EXPECT_NE(convert(nullptr, {memory.data(), DataType::i32, Space::device, 1, 4, 4},
                    DeviceMatrix(DataType::f32, 1, 4).view()),
            cudaSuccess);
}

TEST(RmsNorm, DividesByTheRootMeanSquare) {
  Random random;
  for (const RowShape& shape : row_shapes()) {
    for (const auto& [type, tolerance] : type_cases) {
      SCOPED_TRACE(describe(shape));
      constexpr float epsilon = 0.01F;
      const DeviceMatrix x(DataType::f32, shape.rows, shape.columns, shape.stride,
                           random.numbers(shape.rows * shape.columns, 0.3));
      const DeviceMatrix weight(DataType::f32, 1, shape.columns, shape.stride, random.numbers(shape.columns, 2.0));
      const DeviceMatrix out(type, shape.rows, shape.columns, shape.stride);
      check(rms_norm(nullptr, x.view(), weight.view(), epsilon, out.view()));
      const Numbers values = x.read();
      const Numbers weights = weight.read();
      Numbers expected(values.size());
      const auto columns = static_cast<std::size_t>(shape.columns);
      for (std::size_t first = 0; first < values.size(); first += columns) {
        double squares = 0.0;
        for (std::size_t i = 0; i < columns; ++i) squares += values[first + i] * values[first + i];
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(columns) + static_cast<double>(epsilon));
        for (std::size_t i = 0; i < columns; ++i) expected[first + i] = values[first + i] * scale * weights[i];
      }
      expect_rows(out, expected, tolerance);
    }
  }
}

double silu_of(double x) { return x / (1.0 + std::exp(-x)); }

TEST(Silu, WorksInPlace) {
  Random random;
  for (const RowShape& shape : row_shapes()) {
    for (const auto& [type, tolerance] : type_cases) {
      SCOPED_TRACE(describe(shape));
      const DeviceMatrix x(type, shape.rows, shape.columns, shape.stride,
                           random.numbers(shape.rows * shape.columns, 20.0));
      Numbers expected = x.read();
      for (double& number : expected) number = silu_of(number);
      check(silu(nullptr, x.view()));
      expect_rows(x, expected, tolerance);
    }
  }
}

TEST(Silu, KeepsToItsLimits) {
  const DeviceMatrix x(DataType::f32, 1, 8, 8, {-1e30, -200.0, -87.0, -1e-20, 0.0, 1e-20, 100.0, 1e30});
  check(silu(nullptr, x.view()));
  const Numbers expected{0.0, 0.0, 0.0, -5e-21, 0.0, 5e-21, 100.0, 1e30};
  const Numbers actual = x.read();
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(actual[i], expected[i], 1e-30 + 1e-6 * std::abs(expected[i])) << i;
}

TEST(SiluMultiply, GatesTheSecondHalf) {
  Random random;
  for (const RowShape& shape : row_shapes()) {
    for (const auto& [type, tolerance] : type_cases) {
      SCOPED_TRACE(describe(shape));
      const DeviceMatrix gate_up(type, shape.rows, 2 * shape.columns, 2 * shape.stride,
                                 random.numbers(shape.rows * shape.columns * 2, 5.0));
      const DeviceMatrix out(type, shape.rows, shape.columns, shape.stride);
      check(silu_multiply(nullptr, gate_up.view(), out.view()));
      const Numbers values = gate_up.read();
      Numbers expected;
      const auto columns = static_cast<std::size_t>(shape.columns);
      for (std::size_t first = 0; first < values.size(); first += 2 * columns) {
        for (std::size_t i = first; i < first + columns; ++i) {
          expected.push_back(silu_of(values[i]) * values[i + columns]);
        }
      }
      expect_rows(out, expected, tolerance);
    }
  }
}

struct Partial {
  DeviceMatrix output;
  DeviceMatrix log_sum_exp;
};

std::vector<Partial> random_partials(Random& random, int count, const HeadShape& shape, std::int64_t rows) {
  std::vector<Partial> partials;
  for (int i = 0; i < count; ++i) {
    Numbers exponents = random.numbers(rows * shape.heads, 30.0);
    for (double& exponent : exponents) {
      if (random.integer(0, 3) == 0) exponent = -infinity;  // has seen no key
    }
    if (count > 0 && rows > 0) exponents[0] = -infinity;  // nobody has
    partials.push_back({DeviceMatrix(DataType::f32, rows, shape.query_columns(), shape.query_columns() + gap(4),
                                     random.numbers(rows * shape.query_columns())),
                        DeviceMatrix(DataType::f32, rows, shape.heads, shape.heads + gap(i % 2), exponents)});
  }
  return partials;
}

Numbers merged(const std::vector<Partial>& partials, const HeadShape& shape, std::int64_t rows) {
  const auto head_dim = static_cast<std::size_t>(shape.head_dim);
  Numbers sum(static_cast<std::size_t>(rows * shape.query_columns()));
  Numbers weights(static_cast<std::size_t>(rows * shape.heads));
  for (const Partial& partial : partials) {
    const Numbers output = partial.output.read();
    const Numbers exponents = partial.log_sum_exp.read();
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += std::exp(exponents[i / head_dim]) * output[i];
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] += std::exp(exponents[i]);
  }
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] /= weights[i / head_dim] == 0.0 ? 1.0 : weights[i / head_dim];
  return sum;
}

TEST(Merge, WeighsByTheLogSumExp) {
  Random random;
  struct Case {
    HeadShape shape;
    int partials;
    std::int64_t rows;
  };
  std::vector<Case> cases{{{3, 1, 64}, 1, 1},
                          {{2, 2, 128}, 2, 5},
                          {{5, 1, tests_are("model") ? 64 : 33}, 3, 4},
                          {{4, 2, 64}, 17, 3},
                          {{1, 1, tests_are("model") ? 64 : 8}, 1024, 1},
                          {{2, 1, 64}, 2, 0}};
  if (large_tests()) cases.push_back({{32, 8, 128}, 2, 8192});
  for (const auto& [shape, count, rows] : cases) {
    const std::vector<Partial> partials = random_partials(random, count, shape, rows);
    std::vector<PartialAttention> views;
    for (const Partial& partial : partials) views.push_back({partial.output.view(), partial.log_sum_exp.view()});
    for (const auto& [type, tolerance] : type_cases) {
      SCOPED_TRACE(std::to_string(count) + " partials of " + std::to_string(rows) + " rows");
      const DeviceMatrix out(type, rows, shape.query_columns(), shape.query_columns() + gap(8));
      const DeviceMatrix again(type, rows, shape.query_columns(), shape.query_columns() + gap(8));
      check(merge(nullptr, shape, views, out.view()));
      check(merge(nullptr, shape, views, again.view()));
      expect_rows(out, merged(partials, shape, rows), tolerance);
      EXPECT_EQ(out.bytes(), again.bytes());
    }
  }
}

TEST(Merge, IsZeroWithoutPartials) {
  const HeadShape shape{2, 1, 64};
  const DeviceMatrix out(DataType::bf16, 3, 128);
  check(merge(nullptr, shape, {}, out.view()));
  EXPECT_EQ(out.read(), Numbers(384, 0.0));
  const std::vector<PartialAttention> too_many(1025, PartialAttention{out.view(), out.view()});
  EXPECT_NE(merge(nullptr, shape, too_many, out.view()), cudaSuccess);
}

Numbers largest_columns(std::int64_t rows, std::int64_t columns, std::int64_t stride, const Numbers& numbers) {
  const DeviceMatrix x(DataType::f32, rows, columns, stride, numbers);
  const DeviceMatrix out(DataType::i32, rows, 1, 1);
  check(argmax(nullptr, x.view(), out.view()));
  EXPECT_TRUE(out.poison_is_whole());
  return out.read();
}

TEST(Argmax, FindsTheLargestAndTheLowerOnTies) {
  Random random;
  for (const RowShape& shape : row_shapes()) {
    SCOPED_TRACE(describe(shape));
    Numbers numbers = random.numbers(shape.rows * shape.columns, 50.0);
    for (double& number : numbers) number = std::round(number);
    Numbers expected;
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      const auto first = numbers.begin() + row * shape.columns;
      expected.push_back(static_cast<double>(std::max_element(first, first + shape.columns) - first));
    }
    EXPECT_EQ(largest_columns(shape.rows, shape.columns, shape.stride, numbers), expected);
  }
}

TEST(Argmax, TakesNanForNoNumber) {
  EXPECT_EQ(largest_columns(4, 5, 8, {nan, -3.0,      nan,       -2.0, -2.0,       //
                                      nan, nan,       nan,       nan,  nan,        //
                                      nan, -infinity, -infinity, nan,  -infinity,  //
                                      0.0, -0.0,      infinity,  nan,  infinity}),
            (Numbers{3, 0, 1, 2}));
  EXPECT_EQ(largest_columns(1, 4, 4, {-0.0, 0.0, -0.0, 0.0}), Numbers{0});
}

}  // namespace
}  // namespace apb::cuda
