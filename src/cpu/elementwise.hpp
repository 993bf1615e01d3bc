// Operations that treat each row, or each element, for itself. Shapes and types are those of Device's operations of the
// same name and have been checked. Rows are shared out to `threads` threads; the result does not depend on how many.
#pragma once

#include "cpu/packed_weight.hpp"
#include "device/device.hpp"

namespace apb::cpu {

/// Device::embed; throws std::invalid_argument for a token that the table does not have.
void embed(int threads, ConstView tokens, const PackedWeight& table, View out);
void rms_norm(int threads, ConstView x, ConstView weight, float epsilon, View out);
void silu(int threads, View x);
void silu_multiply(int threads, ConstView gate_up, View out);
/// Device::argmax; NaN is never the largest.
void argmax(int threads, ConstView x, View out);

}  // namespace apb::cpu
