#include "cpu/packed_weight.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "cpu/bf16.hpp"
#include "cpu/convert.hpp"
#include "cpu/onednn.hpp"
#include "cpu/rows.hpp"
#include "cpu/vectorize.hpp"

namespace apb::cpu {
namespace {

constexpr std::int64_t strip = PackedLayout::strip;
constexpr std::size_t line = 64;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

/// Words of 64 outputs are turned over so many at a time: they and their copy stay in the nearest caches.
constexpr std::int64_t slice_words = 128;
using Slice = std::array<std::uint32_t, static_cast<std::size_t>(strip* slice_words)>;

/// from [64, slice_words] to [count, 64], `stride` words from row to row.
APB_VECTORIZED void transpose(const std::uint32_t* from, std::int64_t count, std::uint32_t* to, std::int64_t stride) {
  for (std::int64_t word = 0; word < count; ++word) {
#pragma omp simd
    for (std::int64_t output = 0; output < strip; ++output)
      to[word * stride + output] = from[output * slice_words + word];
  }
}

struct Row {
  const std::byte* data = nullptr;  // none: zeros
  DataType type = DataType::f32;
};

/// The rows of the stacked matrices that a strip consists of.
std::array<Row, strip> rows_of_strip(std::span<const ConstView> stacked, std::int64_t first) {
  std::array<Row, strip> rows{};
  std::int64_t begin = 0;
  for (const ConstView& matrix : stacked) {
    for (std::int64_t row = std::max(first, begin); row < std::min(first + strip, begin + matrix.rows); ++row) {
      rows[static_cast<std::size_t>(row - first)] = {matrix.row(row - begin), matrix.type};
    }
    begin += matrix.rows;
  }
  return rows;
}

void fill_strip(const PackedLayout& layout, std::span<const ConstView> stacked, std::int64_t number,
                std::uint32_t* destination) {
  const auto rows = rows_of_strip(stacked, number * strip);
  const std::int64_t slice_inputs = slice_words * layout.inputs_a_word();
  Slice slice;
  for (std::int64_t first = 0; first < layout.words; first += slice_words) {
    const std::int64_t first_input = first * layout.inputs_a_word();
    const std::int64_t inputs = std::clamp<std::int64_t>(layout.inputs - first_input, 0, slice_inputs);
    for (std::size_t output = 0; output < rows.size(); ++output) {
      auto* const target = reinterpret_cast<std::byte*>(slice.data() + output * slice_words);
      const Row& row = rows[output];
      const std::int64_t filled = row.data == nullptr ? 0 : inputs;
      if (filled > 0) {
        convert(row.data + static_cast<std::size_t>(first_input) * size_of(row.type), row.type, target, layout.type,
                filled);
      }
      std::memset(target + static_cast<std::size_t>(filled) * size_of(layout.type), 0,
                  static_cast<std::size_t>(slice_inputs - filled) * size_of(layout.type));
    }
    transpose(slice.data(), std::min(slice_words, layout.words - first),
              destination + layout.word(number * strip, first), layout.row_stride);
  }
}

}  // namespace

PackedLayout::PackedLayout(DataType number_type, std::int64_t output_count, std::int64_t input_count)
    : type(number_type), outputs(output_count), inputs(input_count), blocked(has_blocked_products(number_type)) {
  constexpr std::int64_t block_words = 16;
  words = round_up((inputs + inputs_a_word() - 1) / inputs_a_word(), blocked ? block_words : 1);
  strip_stride = blocked ? words * strip : strip;
  row_stride = blocked ? strip : strips() * strip;
}

dnnl::memory::desc PackedLayout::description() const {
  if (blocked) return blocked_weight(type, inputs, outputs);
  return {dnnl::memory::dims{inputs, outputs}, dnnl::memory::data_type::f32, dnnl::memory::dims{row_stride, 1}};
}

std::size_t PackedWeight::bytes_for(const PackedLayout& layout, bool bias) {
  const std::int64_t numbers = layout.strips() * strip * layout.words + (bias ? layout.outputs : 0);
  return static_cast<std::size_t>(round_up(numbers * 4, line));
}

PackedWeight::PackedWeight(const PackedLayout& layout, bool bias, std::shared_ptr<const Buffer> memory, std::byte* data)
    : Weight(layout.outputs, layout.inputs, bytes_for(layout, bias)),
      layout_(layout),
      memory_(std::move(memory)),
      data_(data) {
  if (bias) bias_ = reinterpret_cast<float*>(data) + layout.strips() * strip * layout.words;
}

void PackedWeight::fill(int threads, std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  auto* const destination = reinterpret_cast<std::uint32_t*>(data_);
  for_each_index(threads, layout_.strips(),
                 [&](std::int64_t number) { fill_strip(layout_, stacked, number, destination); });
  float* end = bias_;
  for (const ConstView& part : biases) {
    convert(part.row(0), part.type, reinterpret_cast<std::byte*>(end), DataType::f32, part.columns);
    end += part.columns;
  }
}

void PackedWeight::read_row(std::int64_t output, float* out) const {
  const std::uint32_t* word = words() + layout_.word(output, 0);
  for (std::int64_t input = 0; input < layout_.inputs; input += layout_.inputs_a_word(), word += layout_.row_stride) {
    if (layout_.type == DataType::f32) {
      out[input] = std::bit_cast<float>(*word);
    } else {
      out[input] = std::bit_cast<float>(*word << 16U);
      if (input + 1 < layout_.inputs) out[input + 1] = std::bit_cast<float>(*word & 0xFFFF0000U);
    }
  }
}

}  // namespace apb::cpu
