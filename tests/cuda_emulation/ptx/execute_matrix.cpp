// Tensor cores: ldmatrix and mma. A lane's place in a fragment: group = lane / 4, member = lane % 4.
#include <cstring>
#include <string>

#include "ptx/access.hpp"
#include "ptx/forms.hpp"
#include "ptx/half.hpp"
#include "ptx/handlers.hpp"

namespace apb::ptx {
namespace {

// 16 lanes, four quads of a fragment. A lane's quad holds one row of A and of C.
using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));

struct alignas(64) Register {
  Floats half[2];  // lanes 0-15, 16-31
};

/// The two numbers of each lane: [0] of the lower half of the word, [1] of the upper.
struct Numbers {
  Register part[2];
};

inline void widen(const std::uint32_t* words, bool half, Numbers& numbers) {
  if (half) {
    for (int lane = 0; lane < lanes; ++lane) {
      numbers.part[0].half[lane / 16][lane % 16] = Half::widen(static_cast<std::uint16_t>(words[lane]));
      numbers.part[1].half[lane / 16][lane % 16] = Half::widen(static_cast<std::uint16_t>(words[lane] >> 16));
    }
    return;
  }
  for (int i = 0; i < 2; ++i) {
    Words bits;
    std::memcpy(&bits, words + 16 * i, sizeof(bits));
    numbers.part[0].half[i] = reinterpret_cast<Floats>(bits << 16);
    numbers.part[1].half[i] = reinterpret_cast<Floats>(bits & 0xFFFF0000U);
  }
}

/// All members of a quad get what member T has.
template <int T>
inline void spread(const Floats& row, Floats& result) {
  result = __builtin_shufflevector(row, row, T, T, T, T, T + 4, T + 4, T + 4, T + 4, T + 8, T + 8, T + 8, T + 8, T + 12,
                                   T + 12, T + 12, T + 12);
}

/// Every quad gets quad T.
template <int T>
inline void repeat(const Floats& quads, Floats& result) {
  constexpr int q = 4 * T;
  result = __builtin_shufflevector(quads, quads, q, q + 1, q + 2, q + 3, q, q + 1, q + 2, q + 3, q, q + 1, q + 2, q + 3,
                                   q, q + 1, q + 2, q + 3);
}

/// One step k = 2 T + part of eight: c += column k of A times row k of B. `even` and `odd` have in quad T the row's
/// even and odd columns, `a` the rows group and group + 8.
template <int T>
inline void step(const Register (&a)[2], const Floats& even, const Floats& odd, Register (&c)[4]) {
  Floats b[2];
  repeat<T>(even, b[0]);
  repeat<T>(odd, b[1]);
  for (int row = 0; row < 2; ++row) {
    for (int i = 0; i < 2; ++i) {
      Floats value;
      spread<T>(a[row].half[i], value);
      c[2 * row].half[i] += value * b[0];
      c[2 * row + 1].half[i] += value * b[1];
    }
  }
}

/// Eight steps of k. A: registers of rows group and group + 8; B: one register, column lane / 4, k = 2 (lane % 4) and
/// the next.
APB_VECTORIZED void multiply_8(const std::uint32_t* a0, const std::uint32_t* a1, const std::uint32_t* b, bool half,
                               Register (&c)[4]) {
  Numbers a[2];
  Numbers columns;
  widen(a0, half, a[0]);
  widen(a1, half, a[1]);
  widen(b, half, columns);
  Register rows[2][2];
  Floats even[2];
  Floats odd[2];
  for (int part = 0; part < 2; ++part) {
    rows[part][0] = a[0].part[part];
    rows[part][1] = a[1].part[part];
    const Floats& low = columns.part[part].half[0];
    const Floats& high = columns.part[part].half[1];
    even[part] = __builtin_shufflevector(low, high, 0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    odd[part] = __builtin_shufflevector(low, high, 4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31);
  }
  step<0>(rows[0], even[0], odd[0], c);
  step<0>(rows[1], even[1], odd[1], c);
  step<1>(rows[0], even[0], odd[0], c);
  step<1>(rows[1], even[1], odd[1], c);
  step<2>(rows[0], even[0], odd[0], c);
  step<2>(rows[1], even[1], odd[1], c);
  step<3>(rows[0], even[0], odd[0], c);
  step<3>(rows[1], even[1], odd[1], c);
}

/// A has 4 (Depth 16) or 2 (Depth 8) registers of two halves: rows group and group + 8, then columns + 8.
/// B has half as many. C and D have 4 floats: two columns of row group, two of row group + 8.
/// Products of halves are exact in float, so it makes no difference whether they are fused with the sum.
template <int Depth>
void multiply(Warp& warp, const Operation& operation) {
  constexpr unsigned a_count = Depth / 4, b_count = Depth / 8;
  if (warp.active != all_lanes) {
    violate(warp, Fault::missing_lanes, std::countr_zero(warp.active),
            "multiplies matrices without all lanes of the warp: only " + name_lanes(warp.active));
  }
  ++warp.block->launch->counters->mma;
  const bool half = (operation.flags & half_inputs) != 0;
  const auto words = [&](unsigned operand) { return warp.at<std::uint32_t>(operation.operand[operand]); };
  Register c[4];
  for (unsigned r = 0; r < 4; ++r) std::memcpy(&c[r], words(4 + a_count + b_count + r), sizeof(Register));
  for (unsigned k = 0; k < b_count; ++k) {
    multiply_8(words(4 + 2 * k), words(5 + 2 * k), words(4 + a_count + k), half, c);
  }
  for (unsigned r = 0; r < 4; ++r) std::memcpy(words(r), &c[r], sizeof(Register));
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
