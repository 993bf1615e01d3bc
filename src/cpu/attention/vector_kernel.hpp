// Attention by vectors: one template for every instruction set. To be included behind `#pragma GCC target`, with a Set
// from an unnamed namespace, so that no two translation units share a function.
//
// A Set has
//   lanes    numbers in a vector: 16, 8 or 4
//   rows     rows that are worked on together
//   unit_keys  keys that they are worked on with at a time
//   Floats, Words  vectors of float and std::uint32_t
//   multiply_pairs(sum, word, words)   where bf16 pairs are multiplied as they are
//   power_of_two<Operand>(x)           2^x, 0 for -infinity, NaN for NaN
//   store(weights of 32 keys, Bf16*)   where weights are stored as bf16; returns their sum as stored
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu/attention/kernel.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

namespace apb::cpu {

template <typename Set, typename Stored, typename Operand>
class VectorKernel {
 public:
  static void attend(const StackedRows& rows, const KeySegment& segment) {
    for (int first = 0; first < rows.rows; first += tile_rows) {
      const int end = std::min(first + tile_rows, rows.rows);
      const int seen_by_last = segment.seen_by((end - 1) / rows.group);
      for (int key = 0; key < seen_by_last; key += unit_keys) {
        const int keys = std::min(unit_keys, (seen_by_last - key + key_tile - 1) / key_tile * key_tile);
        for (int row = first; row < end; row += Set::rows) VectorKernel(rows, segment, row, key, keys).run();
      }
    }
  }

 private:
  using Floats = typename Set::Floats;
  using Words = typename Set::Words;
  /// Rows that a unit of keys and values stays in the first cache for.
  static constexpr int tile_rows = 24;
  static constexpr int unit_keys = Set::unit_keys;
  static constexpr int pack = numbers_in_word<Stored>;
  static constexpr int vectors_of_tile = tile_words / Set::lanes;

  VectorKernel(const StackedRows& rows, const KeySegment& segment, int row, int key, int keys)
      : rows_(rows), segment_(segment), row_(row), key_(key), keys_(keys), width_(value_width(rows.head_dim)) {}

  [[gnu::always_inline]] void run() {
    const Operand* query = reinterpret_cast<const Operand*>(rows_.query) + row_offset(rows_.head_dim);
    const Stored* keys =
        reinterpret_cast<const Stored*>(segment_.keys) + static_cast<std::ptrdiff_t>(key_) * rows_.head_dim;
    products<false>({query, rows_.head_dim}, {keys, tile_words * rows_.head_dim, tile_words * tile_words * pack},
                    rows_.head_dim / pack, keys_ / tile_words, scores_.data(), unit_keys);
    hide_later_keys();
    if (!weigh<false>()) {
      raise_references();
      weigh<true>();
    }
    for (int r = 0; r < Set::rows; ++r) {
      float* sums = rows_.sums + row_offset(sum_lanes) + r * sum_lanes;
      store(load(sums) + sums_[r], sums);
    }
    const Stored* values =
        reinterpret_cast<const Stored*>(segment_.values) + static_cast<std::ptrdiff_t>(key_) * width_;
    products<true>({weights_.data(), unit_keys}, {values, tile_words * tile_words * pack, tile_words * width_ * pack},
                   keys_ / pack, width_ / tile_words, rows_.output + row_offset(width_), width_);
  }

  std::ptrdiff_t row_offset(int columns) const { return static_cast<std::ptrdiff_t>(row_) * columns; }

  [[gnu::always_inline]] static Floats load(const float* source) {
    Floats result;
    __builtin_memcpy(&result, source, sizeof(result));
    return result;
  }
  [[gnu::always_inline]] static void store(const Floats& values, float* out) {
    __builtin_memcpy(out, &values, sizeof(values));
  }

  // --- products --------------------------------------------------------------------------------------------------
  /// Set::rows rows of numbers.
  struct Left {
    const Operand* data;
    int stride;
  };
  /// Tiles of keys or values: how far it is to the next 16 columns, and to the next 16 words that are added up.
  struct Right {
    const Stored* data;
    std::ptrdiff_t next_columns;
    std::ptrdiff_t next_words;
  };

  /// out [Set::rows, 16 * tiles] = left right, with `values` out += left right.
  template <bool of_values>
  [[gnu::always_inline]] static void products(const Left& left, Right right, int words, int tiles, float* out,
                                              int out_stride) {
    constexpr int side_by_side = Set::tiles;
    for (; tiles >= side_by_side; tiles -= side_by_side) {
      product<side_by_side, of_values>(left, right, words, out, out_stride);
      right.data += side_by_side * right.next_columns;
      out += side_by_side * tile_words;
    }
    for (; tiles > 0; --tiles) {
      product<1, of_values>(left, right, words, out, out_stride);
      right.data += right.next_columns;
      out += tile_words;
    }
  }

  template <int tiles, bool of_values>
  [[gnu::noinline]] static void product(const Left& left, const Right& right, int words, float* out, int out_stride) {
    constexpr int vectors = tiles * vectors_of_tile;
    Floats sums[Set::rows][vectors];
    for (int r = 0; r < Set::rows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        sums[r][v] = of_values ? load(out + r * out_stride + v * Set::lanes) : Floats{};
      }
    }
    const Stored* tile = right.data;
    const Operand* numbers = left.data;
    for (; words > 0; words -= tile_words, tile += right.next_words, numbers += tile_words * pack) {
      const int depth = std::min(words, tile_words);
#pragma GCC unroll 2
      for (int position = 0; position < depth; ++position) {  // in the order of memory
        const int word = of_values ? word_at<Stored>(position) : position;
        add_products<tiles>(numbers + word * pack, left.stride, tile + position * tile_words * pack, right.next_columns,
                            sums);
      }
    }
    for (int r = 0; r < Set::rows; ++r) {
      for (int v = 0; v < vectors; ++v) store(sums[r][v], out + r * out_stride + v * Set::lanes);
    }
  }

  /// One word of every row times one row of `tiles` tiles.
  template <int tiles>
  [[gnu::always_inline]] static void add_products(const Operand* left, int left_stride, const Stored* right,
                                                  std::ptrdiff_t next_columns,
                                                  Floats (&sums)[Set::rows][tiles * vectors_of_tile]) {
    for (int v = 0; v < tiles * vectors_of_tile; ++v) {
      const Stored* column = right + v / vectors_of_tile * next_columns + v % vectors_of_tile * Set::lanes * pack;
      if constexpr (pack == 1) {
        const Floats numbers = load(column);
        for (int r = 0; r < Set::rows; ++r) sums[r][v] += left[r * left_stride] * numbers;
      } else {
        Words words;
        __builtin_memcpy(&words, column, sizeof(words));
        if constexpr (std::is_same_v<Operand, Bf16>) {
          for (int r = 0; r < Set::rows; ++r) {
            sums[r][v] = Set::multiply_pairs(sums[r][v], left + r * left_stride, words);
          }
        } else {
          const Words shifted = words << 16U;
          const Words masked = words & 0xFFFF0000U;
          const auto even = __builtin_bit_cast(Floats, shifted);
          const auto odd = __builtin_bit_cast(Floats, masked);
          for (int r = 0; r < Set::rows; ++r) {
            sums[r][v] += left[r * left_stride] * even;
            sums[r][v] += left[r * left_stride + 1] * odd;
          }
        }
      }
    }
  }

  // --- softmax ---------------------------------------------------------------------------------------------------
  int seen_by(int r) const { return segment_.seen_by((std::min(row_ + r, rows_.rows - 1)) / rows_.group) - key_; }

  [[gnu::always_inline]] void hide_later_keys() {
    if (seen_by(0) >= keys_) return;
    for (int r = 0; r < Set::rows; ++r) {
      for (int key = std::max(0, seen_by(r)); key < keys_; ++key) scores_[r * unit_keys + key] = -infinity;
    }
  }

  /// Scores to weights, and sums_ to theirs; false where a reference is too low. `clamped`: no weight is larger than 1.
  template <bool clamped>
  [[gnu::always_inline]] bool weigh() {
    constexpr int at_once = std::is_same_v<Operand, Bf16> ? 2 * tile_words : Set::lanes;
    Floats worst = Floats{} - infinity;
    for (int r = 0; r < Set::rows; ++r) {
      const float reference = rows_.references[row_ + r];
      Floats sum{};
      for (int key = 0; key < keys_; key += at_once) {
        const float* scores = scores_.data() + r * unit_keys + key;
        Operand* weights = weights_.data() + r * unit_keys + key;
        const auto exponent = [&](int offset) [[gnu::always_inline]] {
          Floats x = load(scores + offset) * rows_.scale - reference;
          if constexpr (clamped) x = x > 0.0F ? Floats{} : x;
          worst = x > worst ? x : worst;
          return x;
        };
        if constexpr (std::is_same_v<Operand, Bf16>) {
          const Floats low = Set::template power_of_two<Stored>(exponent(0));
          const Floats high = Set::template power_of_two<Stored>(exponent(Set::lanes));
          sum = Set::store_pairs(low, high, weights, sum);
        } else {
          const Floats weight = Set::template power_of_two<Stored>(exponent(0));
          store(weight, weights);
          sum += weight;
        }
      }
      sums_[r] = sum;
    }
    bool fits = true;
    for (int lane = 0; lane < Set::lanes; ++lane) fits = fits && worst[lane] <= largest_exponent;
    return fits;
  }

  /// The largest score becomes the row's reference; what it has seen shrinks accordingly.
  [[gnu::noinline]] void raise_references() {
    for (int r = 0; r < Set::rows; ++r) {
      float largest = rows_.references[row_ + r];
      for (int key = 0; key < keys_; ++key) largest = std::max(largest, scores_[r * unit_keys + key] * rows_.scale);
      const float factor = std::exp2(rows_.references[row_ + r] - largest);
      rows_.references[row_ + r] = largest;
      if (factor == 1.0F || largest == -infinity) continue;
      float* output = rows_.output + row_offset(width_) + r * width_;
      for (int i = 0; i < width_; ++i) output[i] *= factor;
      float* sums = rows_.sums + row_offset(sum_lanes) + r * sum_lanes;
      for (int i = 0; i < sum_lanes; ++i) sums[i] *= factor;
    }
  }

  static constexpr float infinity = std::numeric_limits<float>::infinity();

  const StackedRows& rows_;
  const KeySegment& segment_;
  int row_;    // the first of Set::rows rows
  int key_;    // the first of keys_ keys
  int keys_;   // whole tiles
  int width_;  // of a row of output
  alignas(64) std::array<float, static_cast<std::size_t>(Set::rows) * unit_keys> scores_;
  alignas(64) std::array<Operand, static_cast<std::size_t>(Set::rows) * unit_keys> weights_;
  Floats sums_[Set::rows];
};

}  // namespace apb::cpu
