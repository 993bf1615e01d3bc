#include "cpu/elementwise.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "cpu/rows.hpp"
#include "cpu/vector_math.hpp"
#include "cpu/vectorize.hpp"

namespace apb::cpu {
namespace {

template <typename Element>
APB_VECTORIZED void rms_norm_row(const float* x, const float* weight, float epsilon, std::int64_t count, Element* out) {
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < count; ++i) squares += x[i] * x[i];
  const float scale = 1.0F / std::sqrt(squares / static_cast<float>(count) + epsilon);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) out[i] = from_float<Element>(x[i] * scale * weight[i]);
}

inline float silu_of(float x) { return x / (1.0F + vector_exp(-x)); }

template <typename Element>
APB_VECTORIZED void silu_row(Element* x, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) x[i] = from_float<Element>(silu_of(to_float(x[i])));
}

template <typename Element>
APB_VECTORIZED void silu_multiply_row(const Element* gate, const Element* up, std::int64_t count, Element* out) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) out[i] = from_float<Element>(silu_of(to_float(gate[i])) * to_float(up[i]));
}

APB_VECTORIZED float largest(const float* x, std::int64_t count) {
  float result = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : result)
  for (std::int64_t i = 0; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

}  // namespace

void embed(int threads, ConstView tokens, const PackedWeight& table, View out) {
  for (std::int64_t row = 0; row < tokens.rows; ++row) {
    const std::int32_t token = *row_of<std::int32_t>(tokens, row);
    if (token < 0 || token >= table.outputs()) {
      throw std::invalid_argument(
          fmt::format("embed: token {} in row {} is outside the table of {} tokens", token, row, table.outputs()));
    }
  }
  for_each_index(threads, tokens.rows, [&](std::int64_t row) {
    table.read_row(*row_of<std::int32_t>(tokens, row), row_of<float>(out, row));
  });
}

void rms_norm(int threads, ConstView x, ConstView weight, float epsilon, View out) {
  with_element(out.type, [&]<typename Element>(Element) {
    for_each_index(threads, x.rows, [&](std::int64_t row) {
      rms_norm_row(row_of<float>(x, row), row_of<float>(weight, 0), epsilon, x.columns, row_of<Element>(out, row));
    });
  });
}

void silu(int threads, View x) {
  with_element(x.type, [&]<typename Element>(Element) {
    for_each_index(threads, x.rows, [&](std::int64_t row) { silu_row(row_of<Element>(x, row), x.columns); });
  });
}

void silu_multiply(int threads, ConstView gate_up, View out) {
  with_element(out.type, [&]<typename Element>(Element) {
    for_each_index(threads, out.rows, [&](std::int64_t row) {
      const auto* gate = row_of<Element>(gate_up, row);
      silu_multiply_row(gate, gate + out.columns, out.columns, row_of<Element>(out, row));
    });
  });
}

void argmax(int threads, ConstView x, View out) {
  for_each_index(threads, x.rows, [&](std::int64_t row) {
    const auto* values = row_of<float>(x, row);
    const float wanted = largest(values, x.columns);
    std::int64_t column = 0;
    while (column < x.columns && values[column] != wanted) ++column;
    *row_of<std::int32_t>(out, row) = static_cast<std::int32_t>(column < x.columns ? column : 0);
  });
}

}  // namespace apb::cpu
