// What attention's kernels have in common: their arguments, and which of them this processor can run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "device/view.hpp"

namespace apb::cpu {

/// Memory for rows and for keys is there in multiples of this many, whatever of it is used.
inline constexpr int padded_rows = 96;
/// A row's sum of weights, in as many parts.
inline constexpr int sum_lanes = 16;
/// Weights may become as large as 2^this before a reference has to rise.
inline constexpr float largest_exponent = 50.0F;

/// Query rows of one KV head, row = position * group + head of the group, and what they have seen so far: a key of
/// score s has the weight 2^(s * scale - reference). The weights of one row have the same reference, -infinity before
/// the first; what has been added up under a lower one is scaled down when it rises.
struct StackedRows {
  const std::byte* query = nullptr;  // [rows, head_dim] in the kernel's operand type; zero up to padded_rows
  float* output = nullptr;           // [rows, value_width(head_dim)]: sum of weight * value
  float* sums = nullptr;             // [rows, sum_lanes] of weights, as rounded
  float* references = nullptr;       // [rows]
  int rows = 0;
  int group = 0;
  int head_dim = 0;
  float scale = 0.0F;  // log2(e) / sqrt(head_dim)
};

/// Consecutive tokens of one slot and KV head, from the beginning of a tile on: position i sees the first
/// first_visible + i of `count`.
struct KeySegment {
  const std::byte* keys = nullptr;
  const std::byte* values = nullptr;
  int count = 0;
  std::int64_t first_visible = 0;

  int seen_by(std::int64_t position) const {
    return static_cast<int>(std::clamp<std::int64_t>(first_visible + position, 0, count));
  }
};

/// Adds the tokens of a segment to what the rows have seen. Throws nothing. A row whose scores are NaN or infinite gets
/// a sum of NaN.
struct AttentionKernel {
  std::string_view name;  // as `apb` prints it
  DataType stored;        // type of the slots
  DataType operand;       // type of the query rows
  bool (*runs_here)();
  bool (*supports)(int head_dim);
  void (*attend)(const StackedRows& rows, const KeySegment& segment);
};

/// All kernels, the fastest first. The last ones run everywhere and support every even head_dim.
std::span<const AttentionKernel> attention_kernels();

}  // namespace apb::cpu
