// AMX's tiles in software, so that the tile kernel can be tested on any processor with AVX-512's bf16.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/bf16.hpp"

namespace apb {

/// Eight tiles of 16 rows of 64 bytes. multiply() is TDPBF16PS: float sums, subnormal numbers are zero; the order of
/// the sums is our own.
class SoftwareTiles {
 public:
  template <int tile>
  void load(const void* source, std::int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) {
      std::memcpy(row_of(tile, row), static_cast<const std::byte*>(source) + row * row_bytes, 64);
    }
  }
  template <int tile>
  void store(void* target, std::int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) {
      std::memcpy(static_cast<std::byte*>(target) + row * row_bytes, row_of(tile, row), 64);
    }
  }
  template <int tile>
  void zero() {
    tiles_[tile] = {};
  }
  template <int sum, int left, int right>
  void multiply() {
    static_assert(sum != left && sum != right && left != right, "the processor refuses this");
    for (int row = 0; row < 16; ++row) {
      for (int pair = 0; pair < 16; ++pair) {
        for (int column = 0; column < 16; ++column) {
          float& element = reinterpret_cast<float*>(row_of(sum, row))[column];
          for (int part = 0; part < 2; ++part) {
            element = flushed(element + number(left, row, 2 * pair + part) * number(right, pair, 2 * column + part));
          }
        }
      }
    }
  }

 private:
  std::byte* row_of(int tile, int row) { return tiles_.at(static_cast<std::size_t>(tile)).data() + row * 64; }
  float number(int tile, int row, int column) {
    return flushed(cpu::to_float(reinterpret_cast<const cpu::Bf16*>(row_of(tile, row))[column]));
  }
  static float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.0F : value; }

  // What is in a tile before the first load is nobody's business: NaN.
  std::array<std::array<std::byte, 1024>, 8> tiles_ = [] {
    std::array<std::array<std::byte, 1024>, 8> tiles;
    std::memset(tiles.data(), 0xFF, sizeof(tiles));
    return tiles;
  }();
};

}  // namespace apb
