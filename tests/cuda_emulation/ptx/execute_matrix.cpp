// Tensor cores: ldmatrix and mma. A lane's place in a fragment: group = lane / 4, member = lane % 4.
#include <cstring>

#include "ptx/access.hpp"
#include "ptx/forms.hpp"
#include "ptx/half.hpp"
#include "ptx/handlers.hpp"

namespace apb::ptx {
namespace {

constexpr int rows = 16, columns = 8;

template <int Depth>
struct Inputs {
  alignas(64) float a[rows][Depth];
  alignas(64) float b[Depth][columns];
  alignas(64) float c[rows][columns];
};

float low(std::uint32_t pair, bool half) {
  const auto bits = static_cast<std::uint16_t>(pair);
  return half ? Half::widen(bits) : Bfloat::widen(bits);
}
float high(std::uint32_t pair, bool half) {
  const auto bits = static_cast<std::uint16_t>(pair >> 16);
  return half ? Half::widen(bits) : Bfloat::widen(bits);
}

/// c += a b, in order of ascending k.
template <int Depth>
APB_VECTORIZED void accumulate(Inputs<Depth>& inputs) {
  for (int row = 0; row < rows; ++row) {
    float sum[columns];
    for (int n = 0; n < columns; ++n) sum[n] = inputs.c[row][n];
    for (int k = 0; k < Depth; ++k) {
      for (int n = 0; n < columns; ++n) sum[n] = __builtin_fmaf(inputs.a[row][k], inputs.b[k][n], sum[n]);
    }
    for (int n = 0; n < columns; ++n) inputs.c[row][n] = sum[n];
  }
}

/// A has 4 (Depth 16) or 2 (Depth 8) registers of two halves: rows group and group + 8, then columns + 8.
/// B has half as many. C and D have 4 floats: two columns of row group, two of row group + 8.
template <int Depth>
void multiply(Warp& warp, const Operation& operation) {
  constexpr unsigned a_count = Depth / 4, b_count = Depth / 8;
  if (warp.active != all_lanes) {
    violate(warp, Fault::missing_lanes, std::countr_zero(warp.active),
            "multiplies matrices without all lanes of the warp: only " + name_lanes(warp.active));
  }
  ++warp.block->launch->counters->mma;
  const bool half = (operation.flags & half_inputs) != 0;
  Inputs<Depth> inputs;
  const auto words = [&](unsigned operand) { return warp.at<std::uint32_t>(operation.operand[operand]); };
  for (unsigned r = 0; r < a_count; ++r) {
    const auto* a = words(4 + r);
    for (int lane = 0; lane < lanes; ++lane) {
      const int row = lane / 4 + (r % 2 == 1 ? 8 : 0);
      const int k = lane % 4 * 2 + (r >= 2 ? 8 : 0);
      inputs.a[row][k] = low(a[lane], half);
      inputs.a[row][k + 1] = high(a[lane], half);
    }
  }
  for (unsigned r = 0; r < b_count; ++r) {
    const auto* b = words(4 + a_count + r);
    for (int lane = 0; lane < lanes; ++lane) {
      const int k = lane % 4 * 2 + (r == 1 ? 8 : 0);
      inputs.b[k][lane / 4] = low(b[lane], half);
      inputs.b[k + 1][lane / 4] = high(b[lane], half);
    }
  }
  for (unsigned r = 0; r < 4; ++r) {
    const auto* c = warp.at<float>(operation.operand[4 + a_count + b_count + r]);
    for (int lane = 0; lane < lanes; ++lane) {
      inputs.c[lane / 4 + (r >= 2 ? 8 : 0)][lane % 4 * 2 + static_cast<int>(r % 2)] = c[lane];
    }
  }
  accumulate(inputs);
  for (unsigned r = 0; r < 4; ++r) {
    auto* d = warp.at<float>(operation.operand[r]);
    for (int lane = 0; lane < lanes; ++lane) {
      d[lane] = inputs.c[lane / 4 + (r >= 2 ? 8 : 0)][lane % 4 * 2 + static_cast<int>(r % 2)];
    }
  }
}

}  // namespace

void multiply_16x8x16(Warp& warp, const Operation& operation) { multiply<16>(warp, operation); }
void multiply_16x8x8(Warp& warp, const Operation& operation) { multiply<8>(warp, operation); }

/// Matrix m has its 8 rows of 16 bytes where lanes 8 m .. 8 m + 7 point to. Lane l gets elements 2 (l % 4) and the next
/// of row l / 4, or of column l / 4 if transposed.
void load_matrix(Warp& warp, const Operation& operation) {
  if (warp.active != all_lanes) {
    violate(warp, Fault::missing_lanes, std::countr_zero(warp.active),
            "loads matrices without all lanes of the warp: only " + name_lanes(warp.active));
  }
  const unsigned matrices = operation.elements;
  Access access;
  access.kind = AccessKind::read_together;
  access.bytes = 16;
  take_addresses(warp, operation.operand[matrices], (operation.flags & wide_address) != 0, operation.immediate, access);
  access.mask = matrices == 4 ? all_lanes : (1U << (8 * matrices)) - 1;
  locate(warp, Space::shared, access);
  for (unsigned m = 0; m < matrices; ++m) {
    std::uint16_t tile[8][8];
    for (unsigned row = 0; row < 8; ++row) std::memcpy(tile[row], access.host[8 * m + row], 16);
    auto* result = warp.at<std::uint32_t>(operation.operand[m]);
    const bool transpose = (operation.flags & transposed) != 0;
    for (unsigned lane = 0; lane < lanes; ++lane) {
      const unsigned row = lane / 4;
      const unsigned column = lane % 4 * 2;
      const auto first = transpose ? tile[column][row] : tile[row][column];
      const auto second = transpose ? tile[column + 1][row] : tile[row][column + 1];
      result[lane] = first | (std::uint32_t{second} << 16);
    }
  }
}

}  // namespace apb::ptx
