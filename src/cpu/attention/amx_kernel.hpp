// Attention by AMX's products of bf16 tiles. To be included behind `#pragma GCC target`, with Tiles from an unnamed
// namespace: the processor's, or in tests a software one.
//
// 16 rows at a time go over the keys of a run, in units of 32 keys. Products and softmax are one stream of
// instructions, so that the tile unit and the vector units work side by side: the scores of one unit are computed while
// those of the one before become weights, and the weights of the unit before that one are multiplied with its values.
// With a head_dim of 64 the sums stay in four tiles for the whole run (with 128 they would need all eight:
// amx_wide_kernel.hpp).
//
// There is no pass for the largest score: weights are relative to a reference that the first keys set. Where a later
// score is so much larger that its weight might overflow, the reference rises and the run is done again.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <limits>

#include "cpu/attention/kernel.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

namespace apb::cpu {

/// Tiles: load<tile>(source, bytes from row to row), zero<tile>(), store<tile>(target, bytes from row to row),
/// multiply<sum, left, right>().
/// Exponential: amx_exponential.hpp.
template <typename Tiles, typename Exponential>
class AmxKernel {
 public:
  static void attend(const StackedRows& rows, const KeySegment& segment) {
    Tiles tiles;
    for (int row = 0; row < rows.rows; row += tile_rows) AmxKernel(tiles, rows, segment, row).run();
  }

 private:
  static constexpr int head_dim = 64;
  static constexpr int tile_rows = 16;
  static constexpr int unit_keys = 32;
  static constexpr int key_tiles = head_dim / 32;    // of 16 keys
  static constexpr int value_tiles = head_dim / 16;  // of 32 keys
  static constexpr int tile_elements = 512;          // bf16 numbers
  static constexpr int kept_units = 2;               // whose scores and weights are in memory

  // A load has to wait for an earlier store whose address agrees in the lower 12 bits, which is expensive when a tile
  // is stored: it waits for its products. Keys and values are read 1 KiB at a time and in order, so where in a page the
  // next loads go is known, and everything that is stored goes where the last one was. A place begins where the keys
  // do, up to whole pages, and row r of weights and sums is written behind the product that read the 512 bytes from
  // r * 512 on.

  static constexpr int in_page(int i) { return (1 - i % 2) * 1024; }
  static constexpr int page_row = 256;   // bf16 numbers
  static constexpr int next_half = 512;  // floats
  static constexpr int score_bytes = 4096;
  static constexpr int weight_bytes = 8192;
  static constexpr int page_bytes = score_bytes + weight_bytes + 8192;

  struct Place {
    std::byte* page;

    /// Scores of unit i: two tiles of 16 keys, next_half apart.
    float* scores_of(int i) const { return reinterpret_cast<float*>(page + in_page(i)); }
    /// Weights of unit i: one tile of 32 keys, page_row apart.
    Bf16* weights_of(int i) const { return reinterpret_cast<Bf16*>(page + score_bytes + i % kept_units * 64); }
    float* sums_of(int r) const { return reinterpret_cast<float*>(page + score_bytes + weight_bytes + r * 512 + 128); }
    /// What is added to the scores of each row; stands where the scores of unit i do.
    float* offsets_of(int i) const {
      return reinterpret_cast<float*>(page + score_bytes + weight_bytes + in_page(i) + 192);
    }
  };

  /// What a step needs. Passed by value, to stay in registers: loads from the stack would wait for stored tiles as
  /// well.
  struct Work {
    const Bf16* keys;
    const Bf16* values;
    Place place;
  };

  AmxKernel(Tiles& tiles, const StackedRows& rows, const KeySegment& segment, int row)
      : tiles_(tiles),
        segment_(segment),
        row_(row),
        last_row_(std::min(row + tile_rows, rows.rows) - 1),
        group_(rows.group),
        query_(reinterpret_cast<const Bf16*>(rows.query) + static_cast<std::ptrdiff_t>(row) * head_dim),
        keys_(reinterpret_cast<const Bf16*>(segment.keys)),
        values_(reinterpret_cast<const Bf16*>(segment.values)),
        output_(rows.output + static_cast<std::ptrdiff_t>(row) * head_dim),
        row_sums_(rows.sums + static_cast<std::ptrdiff_t>(row) * sum_lanes),
        references_(rows.references + row),
        scale_(rows.scale),
        place_{memory_ + (reinterpret_cast<std::uintptr_t>(keys_) - reinterpret_cast<std::uintptr_t>(memory_)) % 4096 /
                             64 * 64} {}

  void run() {
    const int seen = segment_.seen_by(last_row_ / group_);
    if (seen == 0) return;
    seen_by_all_ = segment_.seen_by(row_ / group_);
    units_ = (seen + unit_keys - 1) / unit_keys;
    load_query();
    if (references_[0] == -infinity) raise_references(1);
    if (add_run()) return;
    raise_references(units_);
    add_run(true);
  }

  /// Adds all units to output and sums; adds nothing and returns false where a reference is too low, unless `forced`.
  bool add_run(bool forced = false) {
    // On its own, so that it stays in registers.
    Exponential exponential(scale_, forced);
    const Work work = this->work();
    const int units = units_;
    const int units_seen_by_all = seen_by_all_ / unit_keys;
    for (int r = 0; r < tile_rows; ++r) {
      for (const int parity : {0, 1}) place_.offsets_of(parity)[r] = Exponential::offset(references_[r]);
      _mm512_store_ps(place_.sums_of(r), _mm512_loadu_ps(row_sums_ + r * sum_lanes));
    }
    load_output();
    for (int i = 0; i < units + 2; ++i) {
      if (i == 2) {
        for (; i < units_seen_by_all; ++i) step<true, true, true>(work, i, exponential);
      }
      partial_step(work, i, units, exponential);
      if (i >= units_seen_by_all && i < units) hide_later_keys(i);
    }
    if (!forced && !exponential.fits()) return false;
    store_output();
    for (int r = 0; r < tile_rows; ++r) {
      _mm512_storeu_ps(row_sums_ + r * sum_lanes, _mm512_load_ps(place_.sums_of(r)));
    }
    return true;
  }

  [[gnu::always_inline]] void partial_step(const Work& work, int i, int units, Exponential& exponential) {
    if (i >= 2 && i < units) {
      step<true, true, true>(work, i, exponential);
    } else if (i < units) {
      i == 0 ? step<true, false, false>(work, i, exponential) : step<true, true, false>(work, i, exponential);
    } else if (i == units) {
      i == 1 ? step<false, true, false>(work, i, exponential) : step<false, true, true>(work, i, exponential);
    } else {
      step<false, false, true>(work, i, exponential);
    }
  }

  /// Scores of unit i, weights of unit i - 1, products with values of unit i - 2.
  template <bool with_scores, bool with_weights, bool with_values>
  [[gnu::always_inline]] void step(Work work, int i, Exponential& exponential) {
    float* const scores = work.place.scores_of(i);
    const Bf16* const keys = work.keys + static_cast<std::ptrdiff_t>(i) * unit_keys * head_dim;
    // Rows to weigh behind each product, so that all are done with the last one.
    constexpr int products = 2 * key_tiles + value_tiles;
    constexpr int share = tile_rows / products;
    const auto weigh = [&](int product) __attribute__((always_inline)) {
      if constexpr (with_weights) {
        for (int r = product * share; r < (product + 1) * share; ++r) weigh_row(work.place, i - 1, r, exponential);
      }
    };
    const auto score_tile = [&](int half) __attribute__((always_inline)) {
      if constexpr (with_scores) tiles_.template zero<score_tile_index>();
      multiply_keys<with_scores>(
          keys + half * key_tiles * tile_elements, [&](int part) __attribute__((always_inline)) {
            weigh(half * key_tiles + part);
          });
      if constexpr (with_scores) tiles_.template store<score_tile_index>(scores + half * next_half, 64);
    };
    score_tile(0);
    score_tile(1);
    const Bf16* const values = work.values + static_cast<std::ptrdiff_t>(i - 2) * unit_keys * head_dim;
    if constexpr (with_values) tiles_.template load<score_tile_index>(work.place.weights_of(i - 2), page_row * 2);
    multiply_value<with_values, 0>(values);
    weigh(2 * key_tiles);
    multiply_value<with_values, 1>(values);
    weigh(2 * key_tiles + 1);
    multiply_value<with_values, 2>(values);
    weigh(2 * key_tiles + 2);
    multiply_value<with_values, 3>(values);
    weigh(2 * key_tiles + 3);
  }

  // Tiles: sums 0..3, query 4 and 5, scores or weights 6, keys or values 7.
  static constexpr int first_query = 4;
  static constexpr int score_tile_index = 6;
  static constexpr int right = 7;

  void load_query() {
    tiles_.template load<first_query>(query_, head_dim * 2);
    tiles_.template load<first_query + 1>(query_ + 32, head_dim * 2);
  }

  template <bool active, typename Between>
  [[gnu::always_inline]] void multiply_keys(const Bf16* keys, Between between) {
    multiply_key<active, 0>(keys);
    between(0);
    multiply_key<active, 1>(keys);
    between(1);
  }
  Work work() const { return {keys_, values_, place_}; }

  template <bool active, int part>
  [[gnu::always_inline]] void multiply_key(const Bf16* keys) {
    if constexpr (active) {
      tiles_.template load<right>(keys + part * tile_elements, 64);
      tiles_.template multiply<score_tile_index, first_query + part, right>();
    }
  }
  template <bool active, int part>
  [[gnu::always_inline]] void multiply_value(const Bf16* values) {
    if constexpr (active) {
      tiles_.template load<right>(values + part * tile_elements, 64);
      tiles_.template multiply<part, score_tile_index, right>();
    }
  }

  void load_output() {
    tiles_.template load<0>(output_, head_dim * 4);
    tiles_.template load<1>(output_ + 16, head_dim * 4);
    tiles_.template load<2>(output_ + 32, head_dim * 4);
    tiles_.template load<3>(output_ + 48, head_dim * 4);
  }
  void store_output() {
    tiles_.template store<0>(output_, head_dim * 4);
    tiles_.template store<1>(output_ + 16, head_dim * 4);
    tiles_.template store<2>(output_ + 32, head_dim * 4);
    tiles_.template store<3>(output_ + 48, head_dim * 4);
  }

  // --- softmax ---------------------------------------------------------------------------------------------------
  [[gnu::always_inline]] static void weigh_row(const Place& place, int i, int r, Exponential& exponential) {
    const float* const scores = place.scores_of(i) + r * 16;
    const __m512i weights = exponential.weigh(_mm512_load_ps(scores), _mm512_load_ps(scores + next_half),
                                              _mm512_set1_ps(place.offsets_of(i)[r]));
    _mm512_store_si512(place.weights_of(i) + r * page_row, weights);
    const __m512bh ones = __builtin_bit_cast(__m512bh, _mm512_set1_epi32(0x3F803F80));
    float* const sums = place.sums_of(r);
    _mm512_store_ps(sums, _mm512_dpbf16_ps(_mm512_load_ps(sums), __builtin_bit_cast(__m512bh, weights), ones));
  }

  [[gnu::noinline]] void hide_later_keys(int i) {
    for (int r = 0; r < tile_rows; ++r) {
      const int seen = segment_.seen_by(std::min(row_ + r, last_row_) / group_) - i * unit_keys;
      const std::uint32_t hidden = seen >= unit_keys ? 0U : seen <= 0 ? ~0U : ~0U << static_cast<unsigned>(seen);
      float* const scores = place_.scores_of(i) + r * 16;
      _mm512_mask_store_ps(scores, static_cast<__mmask16>(hidden), _mm512_set1_ps(-infinity));
      _mm512_mask_store_ps(scores + next_half, static_cast<__mmask16>(hidden >> 16U), _mm512_set1_ps(-infinity));
    }
  }

  /// The largest score in the first `units` becomes the reference where it is larger; what the row has seen shrinks
  /// accordingly. Scores that are no finite numbers leave a sum of NaN.
  [[gnu::noinline]] void raise_references(int units) {
    __m512 largest[tile_rows];
    __m512 not_finite[tile_rows];  // 0 or NaN
    for (int r = 0; r < tile_rows; ++r) {
      largest[r] = _mm512_set1_ps(-infinity);
      not_finite[r] = _mm512_setzero_ps();
    }
    Exponential unused(scale_, true);
    const Work work = this->work();
    for (int i = 0; i < units; ++i) {
      step<true, false, false>(work, i, unused);
      if ((i + 1) * unit_keys > seen_by_all_) hide_later_keys(i);
      for (int r = 0; r < tile_rows; ++r) {
        for (int half = 0; half < 2; ++half) {
          const __m512 scores = _mm512_load_ps(place_.scores_of(i) + half * next_half + r * 16);
          largest[r] = _mm512_max_ps(scores, largest[r]);  // the second where the first is NaN
          // NaN * 0, and infinity * 0, are NaN; hidden keys are -infinity.
          const __mmask16 shown = _mm512_cmp_ps_mask(scores, _mm512_set1_ps(-infinity), _CMP_NEQ_UQ);
          not_finite[r] = _mm512_mask3_fmadd_ps(scores, _mm512_setzero_ps(), not_finite[r], shown);
        }
      }
    }
    for (int r = 0; r < tile_rows; ++r) {
      float* const sums = row_sums_ + r * sum_lanes;
      const float found = _mm512_reduce_max_ps(largest[r]) * scale_;
      const bool finite =
          _mm512_reduce_add_ps(not_finite[r]) == 0.0F && std::abs(std::max(found, references_[r])) < infinity;
      if (!finite) {
        _mm512_storeu_ps(sums, _mm512_set1_ps(std::numeric_limits<float>::quiet_NaN()));
        if (!(references_[r] > -infinity)) references_[r] = 0.0F;
        continue;
      }
      if (found <= references_[r]) continue;
      const __m512 factor = _mm512_set1_ps(std::exp2(references_[r] - found));
      references_[r] = found;
      _mm512_storeu_ps(sums, _mm512_loadu_ps(sums) * factor);
      for (int column = 0; column < head_dim; column += 16) {
        float* const output = output_ + r * head_dim + column;
        _mm512_storeu_ps(output, _mm512_loadu_ps(output) * factor);
      }
    }
  }

  static constexpr float infinity = std::numeric_limits<float>::infinity();

  Tiles& tiles_;
  const KeySegment& segment_;
  int row_;       // the first of tile_rows
  int last_row_;  // that exists
  int group_;
  const Bf16* query_;   // [tile_rows, head_dim]
  const Bf16* keys_;    // of unit 0
  const Bf16* values_;  // of unit 0
  float* output_;       // [tile_rows, head_dim]
  float* row_sums_;     // [tile_rows, sum_lanes]
  float* references_;   // [tile_rows]
  float scale_;
  int seen_by_all_ = 0;
  int units_ = 0;
  alignas(64) std::byte memory_[page_bytes + 4096];
  Place place_;
};

}  // namespace apb::cpu
