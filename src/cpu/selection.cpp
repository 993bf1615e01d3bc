#include "cpu/selection.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "cpu/key_value_layout.hpp"
#include "cpu/rows.hpp"
#include "cpu/vectorize.hpp"

namespace apb::cpu {
namespace {

/// Keys that one thread scores at a time: whole tiles.
constexpr std::int64_t score_chunk = 256;

template <typename Element>
APB_VECTORIZED void add_row(const Element* x, int count, float* sum) {
#pragma omp simd
  for (int i = 0; i < count; ++i) sum[i] += to_float(x[i]);
}

/// scores[t * stride] = mean . keys[t] for `tokens` tokens whose keys begin at a tile; mean f32 [head_dim].
template <typename Element>
APB_VECTORIZED void score_keys(const Element* keys, const float* mean, std::int64_t tokens, int head_dim, float* scores,
                               std::int64_t stride) {
  constexpr int pack = numbers_in_word<Element>;
  for (std::int64_t first = 0; first < tokens; first += tile_words) {
    std::array<float, tile_words> sums{};
    for (int i = 0; i < head_dim; i += pack) {
#pragma omp simd
      for (int token = 0; token < tile_words; ++token) {
        for (int part = 0; part < pack; ++part)
          sums[static_cast<std::size_t>(token)] += mean[i + part] * to_float(keys[token * pack + part]);
      }
      keys += tile_words * pack;
    }
    const std::int64_t count = std::min<std::int64_t>(tile_words, tokens - first);
    for (std::int64_t token = 0; token < count; ++token) {
      scores[(first + token) * stride] = sums[static_cast<std::size_t>(token)];
    }
  }
}

/// One step of the splitmix64 generator from state x.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

/// pooled[t] = max of scores[t - window / 2 .. t + window / 2], as far as these exist.
APB_VECTORIZED void max_pool(const float* scores, std::int64_t count, int window, float* pooled) {
  std::copy_n(scores, count, pooled);
  for (std::int64_t offset = 1; offset <= window / 2; ++offset) {
#pragma omp simd
    for (std::int64_t i = 0; i < count - offset; ++i) {
      pooled[i] = scores[i + offset] > pooled[i] ? scores[i + offset] : pooled[i];
    }
#pragma omp simd
    for (std::int64_t i = offset; i < count; ++i) {
      pooled[i] = scores[i - offset] > pooled[i] ? scores[i - offset] : pooled[i];
    }
  }
}

/// Orders tokens as one integer: the higher score first, then the lower token.
std::uint64_t sort_key(float score, std::int64_t token) {
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // -0 becomes 0
  const std::uint32_t ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (static_cast<std::uint64_t>(ordered) << 32U) | (0xFFFFFFFFU - static_cast<std::uint32_t>(token));
}

}  // namespace

void mean_query(int threads, const HeadShape& shape, ConstView query, View mean) {
  const int group = shape.heads / shape.kv_heads;
  const float weight = 1.0F / static_cast<float>(std::max<std::int64_t>(1, query.rows * group));
  with_element(query.type, [&]<typename Element>(Element) {
    for_each_index(threads, shape.kv_heads, [&](std::int64_t kv_head) {
      auto* sum = row_of<float>(mean, kv_head);
      std::fill_n(sum, shape.head_dim, 0.0F);
      for (std::int64_t row = 0; row < query.rows; ++row) {
        const auto* heads = row_of<Element>(query, row) + kv_head * group * shape.head_dim;
        for (int head = 0; head < group; ++head) add_row(heads + head * shape.head_dim, shape.head_dim, sum);
      }
      for (int i = 0; i < shape.head_dim; ++i) sum[i] *= weight;
    });
  });
}

void score_similarity(int threads, const HeadShape& shape, DataType type, ConstView mean, SlotRange keys, View scores) {
  const std::int64_t chunks = (scores.rows + score_chunk - 1) / score_chunk;
  with_element(type, [&]<typename Element>(Element) {
    for_each_index(threads, chunks * shape.kv_heads, [&](std::int64_t index) {
      const auto head = static_cast<int>(index / chunks);
      const std::int64_t first = index % chunks * score_chunk;
      score_keys(HeadLayout<Element>(keys.slot, shape.head_dim, head).keys() + first * shape.head_dim,
                 row_of<float>(mean, head), std::min(score_chunk, scores.rows - first), shape.head_dim,
                 row_of<float>(scores, first) + head, scores.stride);
    });
  });
}

void score_random(int threads, const RandomScoreKey& key, std::int64_t first_position, View scores) {
  const std::uint64_t layer_state = mix(mix(mix(key.seed) ^ key.document) ^ key.layer);
  for_each_index(threads, scores.rows, [&](std::int64_t token) {
    for (std::int64_t head = 0; head < scores.columns; ++head) {
      const std::uint64_t head_state = mix(layer_state ^ static_cast<std::uint64_t>(head));
      const std::uint64_t hash = mix(head_state ^ static_cast<std::uint64_t>(first_position + token));
      row_of<float>(scores, token)[head] = static_cast<float>(hash >> 40U) * 0x1p-24F;
    }
  });
}

void score_recent(std::int64_t first_position, View scores) {
  for (std::int64_t token = 0; token < scores.rows; ++token) {
    std::fill_n(row_of<float>(scores, token), scores.columns, static_cast<float>(first_position + token));
  }
}

void Selection::run(ConstView scores, int pool_window, int excluded, View positions) {
  if (positions.columns == 0) return;
  const auto heads = static_cast<int>(positions.rows);
  const int threads = std::min(threads_, heads);
  scratch_.resize(static_cast<std::size_t>(threads_));
  for (int thread = 0; thread < threads; ++thread) {
    auto& scratch = scratch_[static_cast<std::size_t>(thread)];
    scratch.scores.resize(static_cast<std::size_t>(scores.rows));
    scratch.pooled.resize(static_cast<std::size_t>(scores.rows));
    scratch.keys.resize(static_cast<std::size_t>(scores.rows));
  }
#pragma omp parallel for num_threads(threads)
  for (int head = 0; head < heads; ++head) {
    select_head(scores, head, pool_window, excluded, positions,
                scratch_[static_cast<std::size_t>(omp_get_thread_num())]);
  }
}

void Selection::select_head(ConstView scores, int head, int pool_window, int excluded, View positions,
                            Scratch& scratch) {
  const std::int64_t tokens = scores.rows;
  for (std::int64_t token = 0; token < tokens; ++token) {
    const float score = row_of<float>(scores, token)[head];
    scratch.scores[static_cast<std::size_t>(token)] =
        std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
  }
  const float* pooled = scratch.pooled.data();
  max_pool(scratch.scores.data(), tokens, pool_window, scratch.pooled.data());

  // The keys are all different, so those from the count-th largest up are the tokens wanted.
  std::uint64_t* keys = scratch.keys.data();
  for (std::int64_t token = excluded; token < tokens; ++token) keys[token - excluded] = sort_key(pooled[token], token);
  std::uint64_t* last_wanted = keys + (positions.columns - 1);
  std::nth_element(keys, last_wanted, keys + (tokens - excluded), std::greater<>());
  auto* next = row_of<std::int32_t>(positions, head);
  for (std::int64_t token = excluded; token < tokens; ++token) {
    if (sort_key(pooled[token], token) >= *last_wanted) *next++ = static_cast<std::int32_t>(token);
  }
}

}  // namespace apb::cpu
