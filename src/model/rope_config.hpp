// The rotary position embedding's part of config.json.
#pragma once

#include "model/config.hpp"
#include "model/json_fields.hpp"

namespace apb {

/// Reads rope_theta and rope_scaling, or rope_parameters, into model.rope_theta and model.rope_scaling; raises
/// model.max_positions to what the scaling stretches it to. Fails with file, field and value where a kind is not
/// supported, or a field of it is missing or wrong.
void read_rope(const JsonFields& config, ModelConfig& model);

}  // namespace apb
