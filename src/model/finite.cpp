#include "model/finite.hpp"

#include <algorithm>

namespace apb {
namespace {

// NaN and infinity are the numbers whose exponent's bits are all set.
template <typename Bits>
std::optional<std::int64_t> first_with(Bits exponent, const std::byte* data, std::int64_t count) {
  const auto* const values = reinterpret_cast<const Bits*>(data);
  Bits found = 0;
#pragma omp simd reduction(| : found)
  for (std::int64_t i = 0; i < count; ++i) found |= static_cast<Bits>((values[i] & exponent) == exponent);
  if (found == 0) return std::nullopt;
  return std::find_if(values, values + count, [=](Bits value) { return (value & exponent) == exponent; }) - values;
}

}  // namespace

std::optional<std::int64_t> first_not_finite(const ConstView& values) {
  const std::int64_t count = values.rows * values.columns;
  switch (values.type) {
    case DataType::f32:
      return first_with<std::uint32_t>(0x7F800000, values.data, count);
    case DataType::bf16:
      return first_with<std::uint16_t>(0x7F80, values.data, count);
    case DataType::f16:
      return first_with<std::uint16_t>(0x7C00, values.data, count);
    case DataType::i32:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace apb
