// Shapes that the kernels' tests go through: few enough that an emulated GPU takes seconds.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "device/view.hpp"

namespace apb::cuda {

/// What APB_GPU_TESTS asks for: `large` sizes, that want a real GPU, or `model`: rows only as models have them, without
/// gaps, so that memory accesses can be counted and held against the least.
inline bool tests_are(const char* kind) {
  const char* wish = std::getenv("APB_GPU_TESTS");
  return wish != nullptr && std::string(wish) == kind;
}
inline bool large_tests() { return tests_are("large"); }

/// Elements between one row and the next.
inline std::int64_t gap(std::int64_t elements) { return tests_are("model") ? 0 : elements; }

struct RowShape {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t stride;
};

/// Whole accesses of 16 bytes and not, with and without a gap between the rows, less than a warp and several blocks.
inline std::vector<RowShape> row_shapes() {
  if (tests_are("model")) return {{5, 576, 576}, {3, 4096, 4096}, {2, 14336, 14336}};
  std::vector<RowShape> shapes{{1, 8, 8},    {7, 64, 64}, {5, 72, 80},     {9, 33, 40},     {3, 1, 8},
                               {300, 8, 16}, {4, 37, 37}, {1, 4104, 4104}, {2, 2309, 2309}, {0, 64, 64}};
  if (large_tests()) shapes.insert(shapes.end(), {{1500, 4096, 4096}, {200, 14336, 14336}, {70000, 24, 24}});
  return shapes;
}

/// bf16 or f32, with the error that one rounding to it may make.
struct TypeCase {
  DataType type;
  double tolerance;
};
inline constexpr TypeCase type_cases[] = {{DataType::f32, 2e-6}, {DataType::bf16, 0.004}};

}  // namespace apb::cuda
