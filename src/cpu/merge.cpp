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

APB_VECTORIZED void blend(const float* x, float x_weight, int count, float sum_weight, float* sum) {
#pragma omp simd
  for (int i = 0; i < count; ++i) sum[i] = sum_weight * sum[i] + x_weight * x[i];
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

void add_partial(int threads, const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) {
  for_each_index(threads, output.rows * shape.heads, [&](std::int64_t index) {
    const std::int64_t row = index / shape.heads;
    const auto head = static_cast<int>(index % shape.heads);
    const float added = row_of<float>(partial.log_sum_exp, row)[head];
    if (added == minus_infinity) return;
    float& running = row_of<float>(log_sum_exp, row)[head];
    const float largest = std::max(running, added);
    const float running_weight = std::exp(running - largest);
    const float added_weight = std::exp(added - largest);
    const float sum = running_weight + added_weight;
    const std::ptrdiff_t column = static_cast<std::ptrdiff_t>(head) * shape.head_dim;
    blend(row_of<float>(partial.output, row) + column, added_weight / sum, shape.head_dim, running_weight / sum,
          row_of<float>(output, row) + column);
    running = largest + std::log(sum);
  });
}

}  // namespace apb::cpu
