// Angles of the rotary position embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.hpp"

namespace apb {

/// [positions, head_dim]: per position head_dim / 2 cosines, then as many sines, of position * theta^(-2i / head_dim),
/// the frequencies scaled and the result multiplied by the attention factor as config.rope_scaling says; in double
/// precision and rounded once.
std::vector<float> rotary_table(const ModelConfig& config, std::int64_t positions);

}  // namespace apb
