#include "cpu/merge.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "cpu/rows.hpp"
#include "cpu/vectorize.hpp"

namespace apb::cpu {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

APB_VECTORIZED void add_weighted(const float* x, float weight, int count, float* sum) {
#pragma omp simd
  for (int i = 0; i < count; ++i) sum[i] += weight * x[i];
}

template <typename Element>
APB_VECTORIZED void store_scaled(const float* x, float factor, int count, Element* out) {
#pragma omp simd
  for (int i = 0; i < count; ++i) out[i] = from_float<Element>(x[i] * factor);
}

/// Columns merged at a time: a head's, as a rule.
constexpr int merged_columns = 128;

/// Merges columns [first, first + count) of a head, count <= merged_columns.
template <typename Element>
void merge_columns(std::span<const PartialAttention> partials, std::int64_t row, int head, std::int64_t first,
                   int count, Element* out) {
  float largest = minus_infinity;
  for (const auto& partial : partials) largest = std::max(largest, row_of<float>(partial.log_sum_exp, row)[head]);
  std::array<float, merged_columns> sum{};
  float weights = 0.0F;
  for (const auto& partial : partials) {
    const float log_sum_exp = row_of<float>(partial.log_sum_exp, row)[head];
    if (log_sum_exp == minus_infinity) continue;
    const float weight = std::exp(log_sum_exp - largest);
    weights += weight;
    add_weighted(row_of<float>(partial.output, row) + first, weight, count, sum.data());
  }
  store_scaled(sum.data(), weights == 0.0F ? 0.0F : 1.0F / weights, count, out + first);
}

}  // namespace

void merge(int threads, const HeadShape& shape, std::span<const PartialAttention> partials, View out) {
  with_element(out.type, [&]<typename Element>(Element) {
    for_each_index(threads, out.rows * shape.heads, [&](std::int64_t index) {
      const std::int64_t row = index / shape.heads;
      const auto head = static_cast<int>(index % shape.heads);
      for (int column = 0; column < shape.head_dim; column += merged_columns) {
        merge_columns(partials, row, head, head * shape.head_dim + column,
                      std::min(merged_columns, shape.head_dim - column), row_of<Element>(out, row));
      }
    });
  });
}

}  // namespace apb::cpu
