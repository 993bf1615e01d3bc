// The online softmax of one row of scores, and its exponential.
#pragma once

#include <limits>

#include "cpu/bf16.hpp"

namespace apb::cpu {

/// Rows of scores and weights are worked on this many at a time.
inline constexpr int softmax_lanes = 16;

/// What a row has seen so far: its weights are 2^(score * scale - maximum), `sum` is theirs.
struct RowState {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0.0F;
};

/// Turns the first `count` of `padded` scores (a multiple of softmax_lanes) of a row into weights, the others into 0,
/// and adds them to the row's state; the scores from `count` on are overwritten. The sum is that of the weights as
/// stored, so that rounding moves numerator and denominator alike. Returns the factor, at most 1, that everything
/// weighted before this call is to be multiplied by. The exponential is right to 1e-7 for float weights and to 1e-4
/// for bf16, whose own rounding is 4e-3.
float add_to_softmax(float* scores, int count, int padded, float scale, RowState& state, float* weights);
float add_to_softmax(float* scores, int count, int padded, float scale, RowState& state, Bf16* weights);

/// out[i] = factor * x[i]; out may be x.
void multiply(const float* x, int count, float factor, float* out);
void multiply(const float* x, int count, float factor, Bf16* out);

}  // namespace apb::cpu
