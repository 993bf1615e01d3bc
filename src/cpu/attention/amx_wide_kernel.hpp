// Attention by AMX's products of bf16 tiles for a head_dim of 128. To be included behind `#pragma GCC target`, with
// Tiles as amx_kernel.hpp says.
//
// 32 rows at a time, so that every tile of keys or values that comes from the second cache serves two products: they
// go over the keys in chunks of up to 256. First the scores of a chunk, in units of 32 keys: four sums of 16 rows by 16
// keys, and while those of one unit are computed, those of the one before become weights. Then the weights of the whole
// chunk times its values, 32 columns of the output at a time.
//
// Weights are relative to a reference, as in amx_kernel.hpp; where it has to rise, the chunk is weighed again.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/attention/kernel.hpp"
#include "cpu/bf16.hpp"

namespace apb::cpu {

template <typename Tiles, typename Exponential>
class AmxWideKernel {
 public:
  static void attend(const StackedRows& rows, const KeySegment& segment) {
    Tiles tiles;
    for (int row = 0; row < rows.rows; row += row_count) AmxWideKernel(tiles, rows, segment, row).run();
  }

 private:
  static constexpr int head_dim = 128;
  static constexpr int tile_rows = 16;
  static constexpr int row_count = 2 * tile_rows;
  static constexpr int unit_keys = 32;
  static constexpr int most_units = 8;
  static constexpr int key_tiles = head_dim / 32;    // of 16 keys
  static constexpr int value_tiles = head_dim / 16;  // of 32 keys
  static constexpr int tile_elements = 512;          // bf16 numbers
  static constexpr int tile_floats = 256;

  /// Passed by value, to stay in registers.
  struct Work {
    const Bf16* query;     // [row_count, head_dim]
    const Bf16* keys;      // of the chunk
    const Bf16* values;    // of the chunk
    float* scores;         // of two units in turns: tiles [2 of rows, 2 of keys]
    Bf16* weights;         // [units, 2 of rows] tiles
    float* sums;           // [row_count, sum_lanes]
    const float* offsets;  // [row_count], what is added to scaled scores

    float* scores_of(int i) const { return scores + i % 2 * 4 * tile_floats; }
    Bf16* weights_of(int i) const { return weights + i * 2 * tile_elements; }
  };

  AmxWideKernel(Tiles& tiles, const StackedRows& rows, const KeySegment& segment, int row)
      : tiles_(tiles),
        segment_(segment),
        row_(row),
        last_row_(std::min(row + row_count, rows.rows) - 1),
        group_(rows.group),
        query_(reinterpret_cast<const Bf16*>(rows.query) + static_cast<std::ptrdiff_t>(row) * head_dim),
        output_(rows.output + static_cast<std::ptrdiff_t>(row) * head_dim),
        row_sums_(rows.sums + static_cast<std::ptrdiff_t>(row) * sum_lanes),
        references_(rows.references + row),
        scale_(rows.scale) {}

  void run() {
    const int seen = segment_.seen_by(last_row_ / group_);
    const int units = (seen + unit_keys - 1) / unit_keys;
    seen_by_all_ = segment_.seen_by(row_ / group_);
    for (first_unit_ = 0; first_unit_ < units; first_unit_ += most_units) {
      add_chunk(std::min(most_units, units - first_unit_));
    }
  }

  void add_chunk(int units) {
    if (references_[0] == -infinity) raise_references(1);
    if (!weigh_chunk(units, false)) {
      raise_references(units);
      weigh_chunk(units, true);
    }
    for (int r = 0; r < row_count; ++r) {
      _mm512_storeu_ps(row_sums_ + r * sum_lanes, _mm512_load_ps(sums_ + r * sum_lanes));
    }
    const Work work = this->work();
    for (int column = 0; column < head_dim; column += 32) multiply_values(work, units, column);
  }

  /// Weights of the chunk, and the rows' sums with them; false where a reference is too low, unless `forced`.
  bool weigh_chunk(int units, bool forced) {
    Exponential exponential(scale_, forced);  // on its own, so that it stays in registers
    for (int r = 0; r < row_count; ++r) {
      offsets_[r] = Exponential::offset(references_[r]);
      _mm512_store_ps(sums_ + r * sum_lanes, _mm512_loadu_ps(row_sums_ + r * sum_lanes));
    }
    const Work work = this->work();
    const int units_seen_by_all = seen_by_all_ / unit_keys - first_unit_;
    step<true, false>(work, 0, exponential);
    if (units_seen_by_all <= 0) hide_later_keys(0);
    for (int i = 1; i < units; ++i) {
      step<true, true>(work, i, exponential);
      if (i >= units_seen_by_all) hide_later_keys(i);
    }
    step<false, true>(work, units, exponential);
    return forced || exponential.fits();
  }

  /// Scores of unit i, weights of unit i - 1. Tiles: sums 0..3 [2 of rows, 2 of keys], query 4 and 5, keys 6 and 7.
  template <bool with_scores, bool with_weights>
  [[gnu::always_inline]] void step(Work work, int i, Exponential& exponential) {
    if constexpr (with_scores) {
      tiles_.template zero<0>();
      tiles_.template zero<1>();
      tiles_.template zero<2>();
      tiles_.template zero<3>();
    }
    score_part<with_scores, with_weights, 0>(work, i, exponential);
    score_part<with_scores, with_weights, 1>(work, i, exponential);
    score_part<with_scores, with_weights, 2>(work, i, exponential);
    score_part<with_scores, with_weights, 3>(work, i, exponential);
    if constexpr (with_scores) {
      float* const scores = work.scores_of(i);
      tiles_.template store<0>(scores, 64);
      tiles_.template store<1>(scores + tile_floats, 64);
      tiles_.template store<2>(scores + 2 * tile_floats, 64);
      tiles_.template store<3>(scores + 3 * tile_floats, 64);
    }
  }

  /// Columns [32 part, 32 part + 32) of query and keys; behind each product, two rows of the unit before are weighed.
  template <bool with_scores, bool with_weights, int part>
  [[gnu::always_inline]] void score_part(const Work& work, int i, Exponential& exponential) {
    const auto weigh = [&](int product) __attribute__((always_inline)) {
      if constexpr (with_weights) {
        constexpr int share = row_count / (4 * key_tiles);
        for (int r = (4 * part + product) * share; r < (4 * part + product + 1) * share; ++r) {
          weigh_row(work, i - 1, r, exponential);
        }
      }
    };
    if constexpr (with_scores) {
      const Bf16* const keys = work.keys + static_cast<std::ptrdiff_t>(i) * unit_keys * head_dim + part * tile_elements;
      tiles_.template load<4>(work.query + 32 * part, head_dim * 2);
      tiles_.template load<6>(keys, 64);
      tiles_.template multiply<0, 4, 6>();
      weigh(0);
      tiles_.template load<7>(keys + key_tiles * tile_elements, 64);
      tiles_.template multiply<1, 4, 7>();
      weigh(1);
      tiles_.template load<5>(work.query + tile_rows * head_dim + 32 * part, head_dim * 2);
      tiles_.template multiply<2, 5, 6>();
      weigh(2);
      tiles_.template multiply<3, 5, 7>();
      weigh(3);
    } else {
      for (int product = 0; product < 4; ++product) weigh(product);
    }
  }

  /// Output columns [column, column + 32) += weights * values. Tiles: sums 0..3, weights 4 and 5, values 6 and 7.
  void multiply_values(Work work, int units, int column) {
    float* const upper = output_ + column;
    float* const lower = upper + tile_rows * head_dim;
    tiles_.template load<0>(upper, head_dim * 4);
    tiles_.template load<1>(upper + 16, head_dim * 4);
    tiles_.template load<2>(lower, head_dim * 4);
    tiles_.template load<3>(lower + 16, head_dim * 4);
    for (int i = 0; i < units; ++i) {
      const Bf16* const values =
          work.values + static_cast<std::ptrdiff_t>(i) * unit_keys * head_dim + column / 16 * tile_elements;
      const Bf16* const weights = work.weights_of(i);
      tiles_.template load<4>(weights, 64);
      tiles_.template load<6>(values, 64);
      tiles_.template multiply<0, 4, 6>();
      tiles_.template load<7>(values + tile_elements, 64);
      tiles_.template multiply<1, 4, 7>();
      tiles_.template load<5>(weights + tile_elements, 64);
      tiles_.template multiply<2, 5, 6>();
      tiles_.template multiply<3, 5, 7>();
    }
    tiles_.template store<0>(upper, head_dim * 4);
    tiles_.template store<1>(upper + 16, head_dim * 4);
    tiles_.template store<2>(lower, head_dim * 4);
    tiles_.template store<3>(lower + 16, head_dim * 4);
  }

  // --- softmax ---------------------------------------------------------------------------------------------------
  /// Where a row's scores of the first 16 keys of a unit are; those of the others follow a tile later.
  static float* row_of(float* scores, int r) { return scores + r / tile_rows * 2 * tile_floats + r % tile_rows * 16; }

  [[gnu::always_inline]] static void weigh_row(const Work& work, int i, int r, Exponential& exponential) {
    const float* const scores = row_of(work.scores_of(i), r);
    const __m512i weights = exponential.weigh(_mm512_load_ps(scores), _mm512_load_ps(scores + tile_floats),
                                              _mm512_set1_ps(work.offsets[r]));
    _mm512_store_si512(work.weights_of(i) + r * 32, weights);
    const __m512bh ones = __builtin_bit_cast(__m512bh, _mm512_set1_epi32(0x3F803F80));
    float* const sums = work.sums + r * sum_lanes;
    _mm512_store_ps(sums, _mm512_dpbf16_ps(_mm512_load_ps(sums), __builtin_bit_cast(__m512bh, weights), ones));
  }

  [[gnu::noinline]] void hide_later_keys(int i) {
    for (int r = 0; r < row_count; ++r) {
      const int seen = segment_.seen_by(std::min(row_ + r, last_row_) / group_) - (first_unit_ + i) * unit_keys;
      const std::uint32_t hidden = seen >= unit_keys ? 0U : seen <= 0 ? ~0U : ~0U << static_cast<unsigned>(seen);
      float* const scores = row_of(work().scores_of(i), r);
      _mm512_mask_store_ps(scores, static_cast<__mmask16>(hidden), _mm512_set1_ps(-infinity));
      _mm512_mask_store_ps(scores + tile_floats, static_cast<__mmask16>(hidden >> 16U), _mm512_set1_ps(-infinity));
    }
  }

  /// The largest score in the chunk's first `units` becomes the reference where it is larger; what the row has seen
  /// shrinks accordingly. Scores that are no finite numbers leave a sum of NaN.
  [[gnu::noinline]] void raise_references(int units) {
    __m512 largest[row_count];
    __m512 not_finite[row_count];  // 0 or NaN
    for (int r = 0; r < row_count; ++r) {
      largest[r] = _mm512_set1_ps(-infinity);
      not_finite[r] = _mm512_setzero_ps();
    }
    Exponential unused(scale_, true);
    const Work work = this->work();
    for (int i = 0; i < units; ++i) {
      step<true, false>(work, i, unused);
      if ((first_unit_ + i + 1) * unit_keys > seen_by_all_) hide_later_keys(i);
      for (int r = 0; r < row_count; ++r) {
        for (int half = 0; half < 2; ++half) {
          const __m512 scores = _mm512_load_ps(row_of(work.scores_of(i), r) + half * tile_floats);
          largest[r] = _mm512_max_ps(scores, largest[r]);  // the second where the first is NaN
          // NaN * 0, and infinity * 0, are NaN; hidden keys are -infinity.
          const __mmask16 shown = _mm512_cmp_ps_mask(scores, _mm512_set1_ps(-infinity), _CMP_NEQ_UQ);
          not_finite[r] = _mm512_mask3_fmadd_ps(scores, _mm512_setzero_ps(), not_finite[r], shown);
        }
      }
    }
    for (int r = 0; r < row_count; ++r) {
      raise_reference(r, _mm512_reduce_max_ps(largest[r]) * scale_, _mm512_reduce_add_ps(not_finite[r]) == 0.0F);
    }
  }

  void raise_reference(int r, float found, bool finite) {
    float* const sums = row_sums_ + r * sum_lanes;
    if (!finite || !(std::abs(std::max(found, references_[r])) < infinity)) {
      _mm512_storeu_ps(sums, _mm512_set1_ps(std::numeric_limits<float>::quiet_NaN()));
      if (!(references_[r] > -infinity)) references_[r] = 0.0F;
      return;
    }
    if (found <= references_[r]) return;
    const __m512 factor = _mm512_set1_ps(std::exp2(references_[r] - found));
    references_[r] = found;
    _mm512_storeu_ps(sums, _mm512_loadu_ps(sums) * factor);
    for (int column = 0; column < head_dim; column += 16) {
      float* const output = output_ + r * head_dim + column;
      _mm512_storeu_ps(output, _mm512_loadu_ps(output) * factor);
    }
  }

  Work work() {
    const std::ptrdiff_t before = static_cast<std::ptrdiff_t>(first_unit_) * unit_keys * head_dim;
    return {query_,
            reinterpret_cast<const Bf16*>(segment_.keys) + before,
            reinterpret_cast<const Bf16*>(segment_.values) + before,
            scores_,
            weights_,
            sums_,
            offsets_};
  }

  static constexpr float infinity = std::numeric_limits<float>::infinity();

  Tiles& tiles_;
  const KeySegment& segment_;
  int row_;       // the first of row_count
  int last_row_;  // that exists
  int group_;
  const Bf16* query_;
  float* output_;      // [row_count, head_dim]
  float* row_sums_;    // [row_count, sum_lanes]
  float* references_;  // [row_count]
  float scale_;
  int seen_by_all_ = 0;
  int first_unit_ = 0;  // of the chunk
  alignas(64) float scores_[2 * 4 * tile_floats];
  alignas(64) Bf16 weights_[most_units * 2 * tile_elements];
  alignas(64) float sums_[row_count * sum_lanes];
  alignas(64) float offsets_[row_count];
};

}  // namespace apb::cpu
