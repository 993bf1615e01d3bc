// Products with packed weights against loops in double precision.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "compare.hpp"
#include "unit/cpu/arrays.hpp"

namespace apb {
namespace {

struct Sizes {
  std::int64_t rows;
  std::int64_t inputs;
  std::int64_t outputs;
};

/// x [rows, inputs] times weight [outputs, inputs], transposed.
Numbers product(const Numbers& x, const Numbers& weight, const Sizes& sizes) {
  const auto inputs = static_cast<std::size_t>(sizes.inputs);
  Numbers result;
  for (std::size_t row = 0; row < static_cast<std::size_t>(sizes.rows); ++row) {
    for (std::size_t output = 0; output < static_cast<std::size_t>(sizes.outputs); ++output) {
      double sum = 0.0;
      for (std::size_t i = 0; i < inputs; ++i) sum += x[row * inputs + i] * weight[output * inputs + i];
      result.push_back(sum);
    }
  }
  return result;
}

class GemmTest : public testing::TestWithParam<Sizes> {
 protected:
  static void expect_product(DataType type, DataType out_type, int threads, double tolerance) {
    const Sizes& sizes = GetParam();
    const auto device = make_cpu_device({.threads = threads, .compute_type = type});
    const Matrix weight = random_matrix(*device, type, sizes.outputs, sizes.inputs, 1.0, 1);
    const Matrix x = random_matrix(*device, type, sizes.rows, sizes.inputs, 1.0, 2);
    const Matrix out = poisoned(*device, out_type, sizes.rows, sizes.outputs);
    const auto packed = pack_matrix(*device, weight);
    EXPECT_EQ(packed->inputs(), sizes.inputs);
    EXPECT_EQ(packed->outputs(), sizes.outputs);
    device->linear(x.view, *packed, out.view, false);
    device->synchronize();
    EXPECT_CLOSE(read(out.view), product(read(x.view), read(weight.view), sizes), tolerance);
  }
};

TEST_P(GemmTest, Float32) {
  expect_product(DataType::f32, DataType::f32, 1, 2e-6);
  expect_product(DataType::f32, DataType::f32, 2, 2e-6);
}

TEST_P(GemmTest, Bfloat16ToFloat32) { expect_product(DataType::bf16, DataType::f32, 2, 2e-6); }

TEST_P(GemmTest, Bfloat16) { expect_product(DataType::bf16, DataType::bf16, 1, 4e-3); }

std::string test_name(const testing::TestParamInfo<Sizes>& tested) {
  const auto& [rows, inputs, outputs] = tested.param;
  return std::to_string(rows) + "_rows_" + std::to_string(inputs) + "_to_" + std::to_string(outputs);
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmTest,
                         testing::Values(Sizes{1, 576, 960}, Sizes{1, 33, 3}, Sizes{3, 64, 1}, Sizes{17, 31, 65},
                                         Sizes{129, 192, 576}, Sizes{1000, 96, 40}),
                         test_name);

TEST(Gemm, OneWeightServesAllRowCounts) {
  const auto device = make_cpu_device({.threads = 2, .compute_type = DataType::bf16});
  const Matrix weight = random_matrix(*device, DataType::bf16, 130, 70, 1.0, 1);
  const auto packed = pack_matrix(*device, weight);
  for (const std::int64_t rows : {1, 2, 5, 16, 33, 512, 700, 1}) {
    const Matrix x = random_matrix(*device, DataType::bf16, rows, 70, 1.0, static_cast<unsigned>(rows));
    const Matrix out = poisoned(*device, DataType::f32, rows, 130);
    device->linear(x.view, *packed, out.view, false);
    device->synchronize();
    EXPECT_CLOSE(read(out.view), product(read(x.view), read(weight.view), {rows, 70, 130}), 2e-6) << rows << " rows";
  }
}

TEST(Gemm, Accumulates) {
  for (const auto& [type, tolerance] : type_cases) {
    const auto device = make_cpu_device({.threads = 1, .compute_type = type});
    const Matrix weight = random_matrix(*device, type, 40, 50, 1.0, 1);
    const Matrix x = random_matrix(*device, type, 9, 50, 1.0, 2);
    const Matrix out = random_matrix(*device, DataType::f32, 9, 40, 10.0, 3);
    Numbers expected = product(read(x.view), read(weight.view), {9, 50, 40});
    const Numbers before = read(out.view);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    device->linear(x.view, *pack_matrix(*device, weight), out.view, true);
    device->synchronize();
    EXPECT_CLOSE(read(out.view), expected, 2e-6);
  }
}

TEST(Gemm, AddsTheStackedBiases) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const bool accumulate : {false, true}) {
      for (const std::int64_t rows : {1, 19}) {
        const auto device = make_cpu_device({.threads = 1, .compute_type = type});
        std::array<Matrix, 2> weights{random_matrix(*device, type, 40, 50, 1.0, 1),
                                      random_matrix(*device, type, 3, 50, 1.0, 2)};
        std::array<Matrix, 2> biases{random_matrix(*device, DataType::f32, 1, 40, 9.0, 3),
                                     random_matrix(*device, DataType::bf16, 1, 3, 9.0, 4)};
        std::array<ConstView, 2> weight_views{weights[0].view, weights[1].view};
        std::array<ConstView, 2> bias_views{biases[0].view, biases[1].view};
        for (auto* views : {&weight_views, &bias_views}) {
          for (ConstView& view : *views) view.space = Space::host;
        }
        const auto packed = device->pack(weight_views, bias_views);
        const Matrix x = random_matrix(*device, type, rows, 50, 1.0, 5);
        const Matrix out = random_matrix(*device, DataType::f32, rows, 43, 10.0, 6);

        Numbers weight = read(weights[0].view);
        for (const double value : read(weights[1].view)) weight.push_back(value);
        Numbers bias = read(biases[0].view);
        for (const double value : read(biases[1].view)) bias.push_back(value);
        Numbers expected = product(read(x.view), weight, {rows, 50, 43});
        const Numbers before = read(out.view);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          expected[i] += bias[i % 43] + (accumulate ? before[i] : 0.0);
        }
        device->linear(x.view, *packed, out.view, accumulate);
        device->synchronize();
        EXPECT_CLOSE(read(out.view), expected, 2e-6) << rows << " rows, accumulate " << accumulate;
      }
    }
  }
}

TEST(Gemm, RefusesBiasesThatDoNotFit) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const Matrix numbers = random_matrix(*device, DataType::f32, 4, 5, 1.0, 1);
  ConstView weight = numbers.view;
  weight.space = Space::host;
  const std::array<ConstView, 2> biases{weight.row_range(0, 1), weight.row_range(0, 1)};
  EXPECT_THROW(device->pack({&weight, 1}, std::span(biases).first(1)), std::invalid_argument);  // 5 where 4 are wanted
  EXPECT_THROW(device->pack({&weight, 1}, biases), std::invalid_argument);
}

TEST(Gemm, StacksAndConvertsWeights) {
  // float16: 0.0999755859375, the subnormal 2^-24, and -2.
  const std::array<std::uint16_t, 3> half{0x2E66, 0x0001, 0xC000};
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const Matrix single = random_matrix(*device, DataType::f32, 2, 3, 1.0, 1);
  const Matrix brain = random_matrix(*device, DataType::bf16, 4, 3, 1.0, 2);
  std::array<ConstView, 3> sources{
      single.view, brain.view,
      ConstView{reinterpret_cast<const std::byte*>(half.data()), DataType::f16, Space::host, 1, 3, 3}};
  for (ConstView& source : sources) source.space = Space::host;
  const auto packed = device->pack(sources, {});
  ASSERT_EQ(packed->outputs(), 7);

  const Matrix identity = filled(*device, DataType::f32, 3, 3, {1, 0, 0, 0, 1, 0, 0, 0, 1});
  const Matrix out = poisoned(*device, DataType::f32, 3, 7);
  device->linear(identity.view, *packed, out.view, false);
  device->synchronize();
  Numbers stacked = read(single.view);
  for (const double value : read(brain.view)) stacked.push_back(value);
  for (const double value : {0x1.998p-4, 0x1p-24, -2.0}) stacked.push_back(value);
  const Numbers columns = read(out.view);
  for (std::size_t output = 0; output < 7; ++output) {
    for (std::size_t input = 0; input < 3; ++input) {
      EXPECT_EQ(columns[input * 7 + output], stacked[output * 3 + input]) << "weight " << output << ", " << input;
    }
  }
}

TEST(Gemm, NoRowsAreNoWork) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const auto packed = pack_matrix(*device, random_matrix(*device, DataType::f32, 2, 2, 1.0, 1));
  EXPECT_NO_THROW(device->linear(poisoned(*device, DataType::f32, 0, 2).view, *packed,
                                 poisoned(*device, DataType::f32, 0, 2).view, false));
}

}  // namespace
}  // namespace apb
