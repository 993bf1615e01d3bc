// The matrix product behind the cuBLASLt stand-in: bf16 times bf16, accumulated in float32.
#pragma once

#include <cstdint>
#include <vector>

namespace apb::emulation {

/// Row-major bf16, `stride` elements from row to row.
struct Bf16Matrix {
  const std::uint16_t* data;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t stride;
};

/// left [m, k] right^T [n, k] as [m, n]. A number does not depend on how many rows there are besides its own.
std::vector<float> product(const Bf16Matrix& left, const Bf16Matrix& right);

}  // namespace apb::emulation
