// Weight matrices as products read them: strips of 64 outputs, input after input.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <memory>
#include <span>

#include "device/device.hpp"

namespace apb::cpu {

/// Where the numbers of a weight lie. They are kept in words of 32 bits: one f32, or two bf16 of neighbouring inputs.
/// Word w of output n is number (n / 64) * strip_stride + w * row_stride + n % 64, so that a strip holds the words of
/// 64 outputs side by side. What fills up words, strips and blocks is 0.
struct PackedLayout {
  static constexpr std::int64_t strip = 64;

  /// The layout that oneDNN's fast products want on this processor, plain rows of all outputs where it has none.
  /// `type` is f32 or bf16.
  PackedLayout(DataType type, std::int64_t outputs, std::int64_t inputs);

  std::int64_t strips() const { return (outputs + strip - 1) / strip; }
  std::int64_t inputs_a_word() const { return type == DataType::bf16 ? 2 : 1; }
  std::int64_t word(std::int64_t output, std::int64_t index) const {
    return output / strip * strip_stride + index * row_stride + output % strip;
  }
  /// As oneDNN describes it: [inputs, outputs].
  dnnl::memory::desc description() const;

  DataType type;
  std::int64_t outputs;
  std::int64_t inputs;
  bool blocked;
  std::int64_t words;         // an output's, with what fills up
  std::int64_t strip_stride;  // in words
  std::int64_t row_stride;    // in words
};

class PackedWeight : public Weight {
 public:
  /// Bytes for a weight and its bias.
  static std::size_t bytes_for(const PackedLayout& layout, bool bias);
  /// In `memory`, from `data` on, aligned to 64 bytes.
  PackedWeight(const PackedLayout& layout, bool bias, std::shared_ptr<const Buffer> memory, std::byte* data);

  const PackedLayout& layout() const { return layout_; }
  const std::byte* data() const { return data_; }
  const std::uint32_t* words() const { return reinterpret_cast<const std::uint32_t*>(data_); }
  /// [outputs], or null.
  const float* bias() const { return bias_; }

  /// Device::fill.
  void fill(int threads, std::span<const ConstView> stacked, std::span<const ConstView> biases);
  /// The inputs of one output, as f32.
  void read_row(std::int64_t output, float* out) const;

 private:
  PackedLayout layout_;
  std::shared_ptr<const Buffer> memory_;
  std::byte* data_;
  float* bias_ = nullptr;
};

}  // namespace apb::cpu
