#include "cpu/slots.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "cpu/key_value_layout.hpp"
#include "cpu/rows.hpp"
#include "cpu/vectorize.hpp"

namespace apb::cpu {
namespace {

/// `heads` heads of a row, one behind the other.
template <typename Element>
struct Heads {
  const Element* data;
  int heads;
  int head_dim;
};

/// Turns the heads by the angles whose head_dim / 2 cosines and as many sines are given; in out they are `out_stride`
/// elements apart.
template <typename Element>
APB_VECTORIZED void rotate_heads(const Heads<Element>& from, const float* angles, Element* out,
                                 std::size_t out_stride) {
  const int half = from.head_dim / 2;
  const float* sines = angles + half;
  const Element* x = from.data;
  for (int head = 0; head < from.heads; ++head) {
#pragma omp simd
    for (int i = 0; i < half; ++i) {
      const float low = to_float(x[i]);
      const float high = to_float(x[i + half]);
      out[i] = from_float<Element>(low * angles[i] - high * sines[i]);
      out[i + half] = from_float<Element>(high * angles[i] + low * sines[i]);
    }
    x += from.head_dim;
    out += out_stride;
  }
}

/// The same after x / rms(x) * norm of each head.
template <typename Element>
APB_VECTORIZED void normalise_and_rotate_heads(const Heads<Element>& from, const float* norm, float epsilon,
                                               const float* angles, Element* out, std::size_t out_stride) {
  const int half = from.head_dim / 2;
  const float* sines = angles + half;
  const Element* x = from.data;
  for (int head = 0; head < from.heads; ++head) {
    float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < from.head_dim; ++i) squares += to_float(x[i]) * to_float(x[i]);
    const float scale = 1.0F / std::sqrt(squares / static_cast<float>(from.head_dim) + epsilon);
#pragma omp simd
    for (int i = 0; i < half; ++i) {
      const float low = to_float(x[i]) * scale * norm[i];
      const float high = to_float(x[i + half]) * scale * norm[i + half];
      out[i] = from_float<Element>(low * angles[i] - high * sines[i]);
      out[i + half] = from_float<Element>(high * angles[i] + low * sines[i]);
    }
    x += from.head_dim;
    out += out_stride;
  }
}

template <typename Element>
void transform_heads(const Heads<Element>& from, const ConstView& norm, float epsilon, const float* angles,
                     Element* out, std::size_t out_stride) {
  if (norm.empty()) {
    rotate_heads(from, angles, out, out_stride);
  } else {
    normalise_and_rotate_heads(from, row_of<float>(norm, 0), epsilon, angles, out, out_stride);
  }
}

/// Zeroes the values from `tokens` on to the end of the tile.
template <typename Element>
void clear_behind(const HeadShape& shape, const Slot& slot, std::int64_t tokens) {
  const std::int64_t tile_end = (tokens + key_tile - 1) / key_tile * key_tile;
  for (int head = 0; head < shape.kv_heads; ++head) {
    auto* values = values_of<Element>(slot, shape.head_dim, head);
    std::fill(values + tokens * shape.head_dim, values + tile_end * shape.head_dim, Element{});
  }
}

template <typename Element>
void store_row(const HeadShape& shape, const Element* qkv, const HeadNorms& norms, const float* angles,
               Element* query_out, const Slot& slot, std::int64_t token) {
  if (query_out != nullptr) {
    transform_heads<Element>({qkv, shape.heads, shape.head_dim}, norms.query, norms.epsilon, angles, query_out,
                             static_cast<std::size_t>(shape.head_dim));
  }
  const Element* key = qkv + shape.heads * shape.head_dim;
  const Element* value = key + shape.kv_heads * shape.head_dim;
  const std::int64_t at = token * shape.head_dim;
  const auto head_to_head = 2 * static_cast<std::size_t>(slot.capacity) * static_cast<std::size_t>(shape.head_dim);
  transform_heads<Element>({key, shape.kv_heads, shape.head_dim}, norms.key, norms.epsilon, angles,
                           keys_of<Element>(slot, shape.head_dim, 0) + at, head_to_head);
  for (int head = 0; head < shape.kv_heads; ++head) {
    std::copy_n(value + head * shape.head_dim, shape.head_dim, values_of<Element>(slot, shape.head_dim, head) + at);
  }
}

}  // namespace

void rotate_and_store(int threads, const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                      std::int64_t first_position, View query_out, Slot slot, int first_token) {
  with_element(qkv.type, [&]<typename Element>(Element) {
    for_each_index(threads, qkv.rows, [&](std::int64_t row) {
      store_row(shape, row_of<Element>(qkv, row), norms, row_of<float>(rotary, first_position + row),
                query_out.empty() ? nullptr : row_of<Element>(query_out, row), slot, first_token + row);
    });
    clear_behind<Element>(shape, slot, first_token + qkv.rows);
  });
}

void gather(int threads, const HeadShape& shape, DataType type, SlotRange source, ConstView positions,
            Slot destination) {
  for (std::int64_t head = 0; head < positions.rows; ++head) {
    for (std::int64_t i = 0; i < positions.columns; ++i) {
      const std::int32_t position = row_of<std::int32_t>(positions, head)[i];
      if (position < 0 || position >= source.count) {
        throw std::invalid_argument(
            fmt::format("gather: position {} of KV head {} is outside the {} tokens", position, head, source.count));
      }
    }
  }
  with_element(type, [&]<typename Element>(Element) {
    for_each_index(threads, positions.rows * positions.columns, [&](std::int64_t index) {
      const auto head = static_cast<int>(index / positions.columns);
      const std::int64_t to = index % positions.columns;
      const std::int64_t from = row_of<std::int32_t>(positions, head)[to];
      const int head_dim = shape.head_dim;
      std::copy_n(keys_of<Element>(source.slot, head_dim, head) + from * head_dim, head_dim,
                  keys_of<Element>(destination, head_dim, head) + to * head_dim);
      std::copy_n(values_of<Element>(source.slot, head_dim, head) + from * head_dim, head_dim,
                  values_of<Element>(destination, head_dim, head) + to * head_dim);
    });
    clear_behind<Element>(shape, destination, positions.columns);
  });
}

}  // namespace apb::cpu
