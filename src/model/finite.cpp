#include "model/finite.hpp"

#include <algorithm>
#include <limits>

namespace apb {
namespace {

constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t piece = 1 << 18;  // elements that one thread looks through at a time

// NaN and infinity are the numbers whose exponent's bits are all set.
template <typename Bits>
bool any_with(Bits exponent, const Bits* values, std::int64_t count) {
  Bits found = 0;
#pragma omp simd reduction(| : found)
  for (std::int64_t i = 0; i < count; ++i) found |= static_cast<Bits>((values[i] & exponent) == exponent);
  return found != 0;
}

template <typename Bits>
std::int64_t first_with(Bits exponent, const std::byte* data, std::int64_t count, [[maybe_unused]] int threads) {
  const auto* const values = reinterpret_cast<const Bits*>(data);
  std::int64_t first = none;
#pragma omp parallel for num_threads(threads) reduction(min : first)
  for (std::int64_t begin = 0; begin < count; begin += piece) {
    const Bits* const end = values + std::min(count, begin + piece);
    if (!any_with(exponent, values + begin, end - (values + begin))) continue;
    const Bits* const found =
        std::find_if(values + begin, end, [=](Bits value) { return (value & exponent) == exponent; });
    first = std::min<std::int64_t>(first, found - values);
  }
  return first;
}

std::int64_t first_in(const ConstView& values, int threads) {
  const std::int64_t count = values.rows * values.columns;
  switch (values.type) {
    case DataType::f32:
      return first_with<std::uint32_t>(0x7F800000, values.data, count, threads);
    case DataType::bf16:
      return first_with<std::uint16_t>(0x7F80, values.data, count, threads);
    case DataType::f16:
      return first_with<std::uint16_t>(0x7C00, values.data, count, threads);
    case DataType::i32:
      return none;
  }
  return none;
}

}  // namespace

std::optional<std::int64_t> first_not_finite(const ConstView& values, int threads) {
  const std::int64_t first = first_in(values, threads);
  return first == none ? std::nullopt : std::optional(first);
}

}  // namespace apb
