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

/// Where a head's numbers go: one behind the other, or into the slot's tiles.
template <typename Element>
struct Dense {
  Element* data;
  Element& operator()(int dimension) const { return data[dimension]; }
};
template <typename Element>
struct KeyOf {
  HeadLayout<Element> layout;
  std::int64_t token;
  Element& operator()(int dimension) const { return layout.key(token, dimension); }
};

/// out = x turned by the angles whose head_dim / 2 cosines and as many sines are given.
template <typename Element, typename Out>
APB_VECTORIZED void rotate_head(const Element* x, int head_dim, const float* angles, Out out) {
  const int half = head_dim / 2;
  const float* sines = angles + half;
#pragma omp simd
  for (int i = 0; i < half; ++i) {
    const float low = to_float(x[i]);
    const float high = to_float(x[i + half]);
    out(i) = from_float<Element>(low * angles[i] - high * sines[i]);
    out(i + half) = from_float<Element>(high * angles[i] + low * sines[i]);
  }
}

/// The same after x / rms(x) * norm.
template <typename Element, typename Out>
APB_VECTORIZED void normalise_and_rotate_head(const Element* x, int head_dim, const float* norm, float epsilon,
                                              const float* angles, Out out) {
  const int half = head_dim / 2;
  const float* sines = angles + half;
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (int i = 0; i < head_dim; ++i) squares += to_float(x[i]) * to_float(x[i]);
  const float scale = 1.0F / std::sqrt(squares / static_cast<float>(head_dim) + epsilon);
#pragma omp simd
  for (int i = 0; i < half; ++i) {
    const float low = to_float(x[i]) * scale * norm[i];
    const float high = to_float(x[i + half]) * scale * norm[i + half];
    out(i) = from_float<Element>(low * angles[i] - high * sines[i]);
    out(i + half) = from_float<Element>(high * angles[i] + low * sines[i]);
  }
}

template <typename Element, typename Out>
void transform_head(const Element* x, int head_dim, const ConstView& norm, float epsilon, const float* angles,
                    Out out) {
  if (norm.empty()) {
    rotate_head(x, head_dim, angles, out);
  } else {
    normalise_and_rotate_head(x, head_dim, row_of<float>(norm, 0), epsilon, angles, out);
  }
}

/// First token of a tile behind `tokens` of them.
std::int64_t tile_end(std::int64_t tokens) { return (tokens + key_tile - 1) / key_tile * key_tile; }

/// Zeroes the values from `tokens` on to the end of the tile.
template <typename Element>
void clear_behind(const HeadShape& shape, const Slot& slot, std::int64_t tokens) {
  for (int head = 0; head < shape.kv_heads; ++head) {
    const HeadLayout<Element> layout(slot, shape.head_dim, head);
    for (std::int64_t token = tokens; token < tile_end(tokens); ++token) {
      for (int i = 0; i < shape.head_dim; ++i) layout.value(token, i) = Element{};
    }
  }
}

template <typename Element>
void store_row(const HeadShape& shape, const Element* qkv, const HeadNorms& norms, const float* angles,
               Element* query_out, const Slot& slot, std::int64_t token) {
  const int head_dim = shape.head_dim;
  if (query_out != nullptr) {
    for (int head = 0; head < shape.heads; ++head) {
      transform_head(qkv + head * head_dim, head_dim, norms.query, norms.epsilon, angles,
                     Dense<Element>{query_out + head * head_dim});
    }
  }
  const Element* keys = qkv + shape.heads * head_dim;
  const Element* values = keys + shape.kv_heads * head_dim;
  for (int head = 0; head < shape.kv_heads; ++head) {
    const HeadLayout<Element> layout(slot, head_dim, head);
    transform_head(keys + head * head_dim, head_dim, norms.key, norms.epsilon, angles, KeyOf<Element>{layout, token});
    for (int i = 0; i < head_dim; ++i) layout.value(token, i) = values[head * head_dim + i];
  }
}

/// body(token) for tokens [first, end), each tile's by one thread: neighbours share cache lines.
template <typename Body>
void for_each_token(int threads, std::int64_t first, std::int64_t end, const Body& body) {
  const std::int64_t first_tile = first / key_tile;
  for_each_index(threads, tile_end(end) / key_tile - first_tile, [&](std::int64_t index) {
    const std::int64_t tile = (first_tile + index) * key_tile;
    for (std::int64_t token = std::max(first, tile); token < std::min(end, tile + key_tile); ++token) body(token);
  });
}

}  // namespace

void rotate_and_store(int threads, const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                      std::int64_t first_position, View query_out, Slot slot, int first_token) {
  with_element(qkv.type, [&]<typename Element>(Element) {
    for_each_token(threads, first_token, first_token + qkv.rows, [&](std::int64_t token) {
      const std::int64_t row = token - first_token;
      store_row(shape, row_of<Element>(qkv, row), norms, row_of<float>(rotary, first_position + row),
                query_out.empty() ? nullptr : row_of<Element>(query_out, row), slot, token);
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
    for_each_token(threads, 0, positions.columns, [&](std::int64_t to) {
      for (int head = 0; head < shape.kv_heads; ++head) {
        const std::int64_t from = row_of<std::int32_t>(positions, head)[to];
        const HeadLayout<Element> of_source(source.slot, shape.head_dim, head);
        const HeadLayout<Element> of_destination(destination, shape.head_dim, head);
        for (int i = 0; i < shape.head_dim; ++i) {
          of_destination.key(to, i) = of_source.key(from, i);
          of_destination.value(to, i) = of_source.value(from, i);
        }
      }
    });
    clear_behind<Element>(shape, destination, positions.columns);
  });
}

}  // namespace apb::cpu
