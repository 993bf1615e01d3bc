// Embedding, norm, activation, argmax and conversion, against double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "arrays.hpp"
#include "compare.hpp"
#include "cpu/vector_math.hpp"

namespace apb {
namespace {

constexpr std::int64_t row_counts[] = {1, 7, 65};
constexpr std::int64_t widths[] = {1, 33, 48, 100, 576};
constexpr float infinity = std::numeric_limits<float>::infinity();

double silu_of(double x) { return x / (1.0 + std::exp(-x)); }

TEST(VectorExp, IsRightOverItsWholeRange) {
  Numbers expected;
  double worst = 0.0;
  for (double x = -87.2; x < 88.2; x += 0.00137) {
    const auto rounded = static_cast<float>(x);
    const double error = std::abs(cpu::vector_exp(rounded) / std::exp(static_cast<double>(rounded)) - 1.0);
    if (!(error <= worst)) worst = error;
  }
  EXPECT_TRUE(worst <= 1.5e-7) << worst;
}

TEST(VectorExp, TreatsItsLimits) {
  EXPECT_EQ(cpu::vector_exp(0.0F), 1.0F);
  EXPECT_EQ(cpu::vector_exp(-88.0F), 0.0F);
  EXPECT_EQ(cpu::vector_exp(-infinity), 0.0F);
  EXPECT_GT(cpu::vector_exp(infinity), 2e38F);
  EXPECT_TRUE(std::isnan(cpu::vector_exp(std::nanf(""))));
  EXPECT_TRUE(std::isnan(cpu::vector_exp(std::bit_cast<float>(0xFFFFFFFFU))));
}

TEST(Embed, TakesTheTokensRows) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const std::int64_t width : widths) {
      const Numbers tokens = {5, 0, 12, 5, 3};
      const Numbers table = random_numbers(13 * width, 2.0, 1);
      const Numbers out = on_one_and_two_threads(type, [&, type = type](Device& device) {
        const auto rows = pack_matrix(device, filled(device, type, 13, width, table));
        const Matrix ids = filled(device, DataType::i32, 5, 1, tokens);
        const Matrix result = poisoned(device, DataType::f32, 5, width);
        device.embed(ids.view, *rows, result.view);
        return read(result.view);
      });
      Numbers expected;
      for (const double token : tokens) {
        const auto first = table.begin() + static_cast<std::int64_t>(token) * width;
        expected.insert(expected.end(), first, first + width);
      }
      EXPECT_CLOSE(out, expected, tolerance);
    }
  }
}

TEST(Embed, RefusesATokenOutsideTheTable) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const auto table = pack_matrix(*device, random_matrix(*device, DataType::f32, 13, 8, 1.0, 1));
  for (const double token : {-1.0, 13.0}) {
    const Matrix tokens = filled(*device, DataType::i32, 1, 1, {token});
    const Matrix out = poisoned(*device, DataType::f32, 1, 8);
    EXPECT_THROW(device->embed(tokens.view, *table, out.view), std::invalid_argument);
  }
}

TEST(RmsNorm, MatchesItsFormula) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const std::int64_t rows : row_counts) {
      for (const std::int64_t width : widths) {
        const Numbers x = random_numbers(rows * width, 3.0, 2);
        const Numbers weight = random_numbers(width, 2.0, 3);
        const Numbers out = on_one_and_two_threads(type, [&, type = type](Device& device) {
          const Matrix result = poisoned(device, type, rows, width);
          device.rms_norm(filled(device, DataType::f32, rows, width, x).view,
                          filled(device, DataType::f32, 1, width, weight).view, 0.01F, result.view);
          return read(result.view);
        });
        Numbers expected;
        for (std::int64_t row = 0; row < rows; ++row) {
          const double* values = x.data() + row * width;
          double squares = 0.0;
          for (std::int64_t i = 0; i < width; ++i) squares += values[i] * values[i];
          const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + 0.01);
          for (std::int64_t i = 0; i < width; ++i) {
            expected.push_back(values[i] * scale * weight[static_cast<std::size_t>(i)]);
          }
        }
        EXPECT_CLOSE(out, expected, tolerance);
      }
    }
  }
}

TEST(Silu, MatchesItsFormulaInPlace) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const std::int64_t rows : row_counts) {
      Numbers expected;
      const Numbers out = on_one_and_two_threads(type, [&, type = type](Device& device) {
        const Matrix x = random_matrix(device, type, rows, 33, 20.0, 4);
        expected = read(x.view);
        device.silu(x.view);
        return read(x.view);
      });
      for (double& value : expected) value = silu_of(value);
      EXPECT_CLOSE(out, expected, tolerance);
    }
  }
}

TEST(Silu, IsZeroFarLeftAndLinearFarRight) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const Matrix x = filled(*device, DataType::f32, 1, 6, {-1000.0, -100.0, 0.0, 100.0, 1000.0, 3e38});
  device->silu(x.view);
  EXPECT_CLOSE(read(x.view), (Numbers{0.0, 0.0, 0.0, 100.0, 1000.0, 3e38}), 1e-7);
  EXPECT_TRUE(std::abs(read(x.view)[0]) <= 1e-30);
}

TEST(SiluMultiply, MatchesItsFormula) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const std::int64_t rows : row_counts) {
      for (const std::int64_t width : widths) {
        Numbers gate_up;
        const Numbers out = on_one_and_two_threads(type, [&, type = type](Device& device) {
          const Matrix input = random_matrix(device, type, rows, 2 * width, 8.0, 5);
          gate_up = read(input.view);
          const Matrix result = poisoned(device, type, rows, width);
          device.silu_multiply(input.view, result.view);
          return read(result.view);
        });
        Numbers expected;
        for (std::int64_t row = 0; row < rows; ++row) {
          const double* gate = gate_up.data() + 2 * row * width;
          for (std::int64_t i = 0; i < width; ++i) expected.push_back(silu_of(gate[i]) * gate[width + i]);
        }
        EXPECT_CLOSE(out, expected, tolerance);
      }
    }
  }
}

Numbers argmax_of(std::int64_t rows, std::int64_t columns, const Numbers& values) {
  return on_one_and_two_threads(DataType::f32, [&](Device& device) {
    const Matrix out = poisoned(device, DataType::i32, rows, 1);
    device.argmax(filled(device, DataType::f32, rows, columns, values).view, out.view);
    return read(out.view);
  });
}

TEST(Argmax, FindsTheLargestOfEachRow) {
  for (const std::int64_t columns : {1, 17, 271, 1000}) {
    const Numbers values = random_numbers(7 * columns, 1.0, 6);
    Numbers expected;
    for (std::int64_t row = 0; row < 7; ++row) {
      const double* first = values.data() + row * columns;
      expected.push_back(static_cast<double>(std::max_element(first, first + columns) - first));
    }
    EXPECT_EQ(argmax_of(7, columns, values), expected);
  }
}

TEST(Argmax, PrefersTheLowerColumnAndIgnoresNan) {
  const double nan = std::nan("");
  EXPECT_EQ(argmax_of(1, 5, {-3.0, -1.0, -2.0, -1.0, -9.0}), Numbers{1});
  EXPECT_EQ(argmax_of(1, 4, {nan, -2.0, nan, -1.0}), Numbers{3});
  EXPECT_EQ(argmax_of(2, 2, {nan, nan, -infinity, -infinity}), (Numbers{0, 0}));
}

TEST(Upload, RoundsToNearestEven) {
  const auto device = make_cpu_device({.threads = 2, .compute_type = DataType::bf16});
  // bf16 has 7 bits behind the point: 1 + 2^-8 and 1 + 3 * 2^-8 lie half way.
  const Numbers values = {1.0 + 0x1p-8, 1.0 + 0x3p-8, -1.0 - 0x1p-8, 1.0 + 0x1p-8 + 0x1p-20, 0.0, 0x1p-130};
  const Matrix out = filled(*device, DataType::bf16, 1, 6, values);
  EXPECT_EQ(read(out.view), (Numbers{1.0, 1.0 + 0x1p-6, -1.0, 1.0 + 0x1p-7, 0.0, 0x1p-130}));
}

TEST(Upload, WidensHalfPrecision) {
  const auto device = make_cpu_device({.threads = 2, .compute_type = DataType::f32});
  const std::vector<std::uint16_t> halves = {0x3C00, 0xC500, 0x0001, 0x7BFF};
  const ConstView source{reinterpret_cast<const std::byte*>(halves.data()), DataType::f16, Space::host, 2, 2, 2};
  const Matrix out = poisoned(*device, DataType::f32, 2, 2);
  device->upload(source, out.view);
  EXPECT_EQ(read(out.view), (Numbers{1.0, -5.0, 0x1p-24, 65504.0}));
}

TEST(Download, GivesBackWhatWasUploaded) {
  const auto device = make_cpu_device({.threads = 2, .compute_type = DataType::f32});
  const Numbers values = random_numbers(7 * 33, 1.0, 7);
  const Matrix matrix = filled(*device, DataType::f32, 7, 33, values);
  std::vector<float> host(7 * 33);
  device->download(matrix.view, {reinterpret_cast<std::byte*>(host.data()), DataType::f32, Space::host, 7, 33, 33});
  device->synchronize();
  EXPECT_EQ(host, std::vector<float>(values.begin(), values.end()));
}

}  // namespace
}  // namespace apb
