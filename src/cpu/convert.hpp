// Arrays of numbers from one type to another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/view.hpp"

namespace apb::cpu {

/// Converts `count` values, from f32, bf16 or f16 to f32 or bf16 (rounded to nearest even) or from a type to itself.
/// Throws std::invalid_argument for any other pair.
void convert(const std::byte* source, DataType source_type, std::byte* destination, DataType destination_type,
             std::int64_t count);

}  // namespace apb::cpu
