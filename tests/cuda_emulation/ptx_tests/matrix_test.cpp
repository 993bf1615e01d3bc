// mma and ldmatrix against the layouts that the PTX ISA document states; wrong layouts must be noticed.
#include <array>
#include <bit>
#include <functional>

#include "device.hpp"
#include "fragments.hpp"

namespace apb::ptx {
namespace {

std::uint16_t bfloat_of(int value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16);
}
std::uint16_t half_of(int value) {  // small integers are exact
  __extension__ using F16 = _Float16;
  return std::bit_cast<std::uint16_t>(static_cast<F16>(value));
}

template <std::size_t Count>
using Layout = std::array<std::array<Place, Count>, 32>;

template <std::size_t Count>
Layout<Count> layout(const Place (&table)[32][Count]) {
  Layout<Count> result;
  for (std::size_t lane = 0; lane < 32; ++lane) std::copy_n(table[lane], Count, result[lane].begin());
  return result;
}

using Matrix = std::vector<std::vector<int>>;

class MatrixTest : public testing::Test {
 protected:
  Matrix random_matrix(int rows, int columns) {
    Matrix result(static_cast<std::size_t>(rows), std::vector<int>(static_cast<std::size_t>(columns)));
    for (auto& row : result) {
      for (auto& value : row) value = random_.below(31) - 15;
    }
    return result;
  }

  template <std::size_t Count>
  static std::vector<std::uint32_t> pack(const Matrix& matrix, const Layout<Count>& places, bool half) {
    std::vector<std::uint32_t> words(32 * Count / 2);
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t i = 0; i < Count; ++i) {
        const auto [row, column] = places[lane][i];
        const int value = matrix[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)];
        words[lane * Count / 2 + i / 2] |= std::uint32_t{half ? half_of(value) : bfloat_of(value)} << (16 * (i % 2));
      }
    }
    return words;
  }

  /// Wrong elements of a product whose fragments are laid out like this.
  template <std::size_t CountA, std::size_t CountB>
  int mismatches(const std::string& kernel, const Layout<CountA>& a_places, const Layout<CountB>& b_places,
                 const Layout<4>& c_places) {
    const int depth = static_cast<int>(2 * CountA);
    const bool half = kernel.ends_with("_f16");
    const Matrix a = random_matrix(16, depth);
    const Matrix b = random_matrix(depth, 8);
    const Matrix c = random_matrix(16, 8);
    std::vector<float> c_words(128);
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t i = 0; i < 4; ++i) {
        const auto [row, column] = c_places[lane][i];
        c_words[4 * lane + i] = static_cast<float>(c[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]);
      }
    }
    auto* d = device_.allocate<float>(128);
    device_.run(kernel, {1}, {32}, device_.upload(pack(a, a_places, half)), device_.upload(pack(b, b_places, half)),
                device_.upload(c_words), d);
    const auto result = device_.download(d, 128);
    int wrong = 0;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t i = 0; i < 4; ++i) {
        const auto row = static_cast<std::size_t>(c_places[lane][i].row);
        const auto column = static_cast<std::size_t>(c_places[lane][i].column);
        int sum = c[row][column];
        for (std::size_t k = 0; k < static_cast<std::size_t>(depth); ++k) sum += a[row][k] * b[k][column];
        wrong += result[4 * lane + i] != static_cast<float>(sum);
      }
    }
    return wrong;
  }

  Random random_;
  Device device_{"matrix"};
};

TEST_F(MatrixTest, ProductsFollowTheDocument) {
  for (int repeat = 0; repeat < 10; ++repeat) {
    for (const std::string type : {"_bf16", "_f16"}) {
      EXPECT_EQ(mismatches("mma_16" + type, layout(a_16x16), layout(b_16x8), layout(c_16x8)), 0);
      EXPECT_EQ(mismatches("mma_8" + type, layout(a_16x8), layout(b_8x8), layout(c_16x8)), 0);
    }
  }
}

TEST_F(MatrixTest, WrongLayoutsAreNoticed) {
  const auto swap = [](auto table, std::size_t i, std::size_t k) {
    for (auto& lane : table) std::swap(lane[i], lane[k]);
    return table;
  };
  const auto transpose = [](auto table) {
    for (auto& lane : table) {
      for (auto& place : lane) std::swap(place.row, place.column);
    }
    return table;
  };
  const auto exchange_lanes = [](auto table) {
    std::swap(table[5], table[6]);
    return table;
  };
  const auto a = layout(a_16x16);
  const auto b = layout(b_16x8);
  const auto c = layout(c_16x8);
  EXPECT_GT(mismatches("mma_16_bf16", swap(a, 2, 4), b, c), 0);
  EXPECT_GT(mismatches("mma_16_bf16", swap(a, 0, 1), b, c), 0);
  EXPECT_GT(mismatches("mma_16_bf16", transpose(a), b, c), 0);
  EXPECT_GT(mismatches("mma_16_bf16", exchange_lanes(a), b, c), 0);
  EXPECT_GT(mismatches("mma_16_bf16", a, swap(b, 1, 2), c), 0);
  EXPECT_GT(mismatches("mma_16_bf16", a, exchange_lanes(b), c), 0);
  EXPECT_GT(mismatches("mma_16_bf16", a, b, swap(c, 1, 2)), 0);
  EXPECT_GT(mismatches("mma_16_bf16", a, b, exchange_lanes(c)), 0);
  EXPECT_GT(mismatches("mma_8_bf16", swap(layout(a_16x8), 1, 2), layout(b_8x8), c), 0);
}

TEST_F(MatrixTest, LoadsFollowTheDocument) {
  std::vector<std::uint16_t> data(64 * 8);
  for (auto& value : data) value = static_cast<std::uint16_t>(random_.bits());
  std::vector<int> rows(32);
  for (auto& row : rows) row = random_.below(64);
  for (const auto& [kernel, count, transposed] : {std::tuple{"ldmatrix_1", 1, false},
                                                  {"ldmatrix_2_trans", 2, true},
                                                  {"ldmatrix_4", 4, false},
                                                  {"ldmatrix_4_trans", 4, true}}) {
    const auto total = static_cast<std::size_t>(32 * count);
    auto* out = device_.allocate<std::uint32_t>(total);
    device_.launch(device_.module().kernel(kernel), {1}, {32}, 0, {}, device_.upload(data), device_.upload(rows), out);
    const auto result = device_.download(out, total);
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t m = 0; m < static_cast<std::size_t>(count); ++m) {
        for (std::size_t i = 0; i < 2; ++i) {
          auto [row, column] = loaded_8x8[lane][i];
          if (transposed) std::swap(row, column);
          const auto at = static_cast<std::size_t>(rows[8 * m + static_cast<std::size_t>(row)]) * 8;
          const auto word = result[lane * static_cast<std::size_t>(count) + m];
          EXPECT_EQ(static_cast<std::uint16_t>(word >> (16 * i)), data[at + static_cast<std::size_t>(column)])
              << kernel << " lane " << lane << " matrix " << m << " element " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace apb::ptx
