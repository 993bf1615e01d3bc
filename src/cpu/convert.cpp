#include "cpu/convert.hpp"

#include <bit>
#include <cstring>
#include <stdexcept>

#include "cpu/bf16.hpp"
#include "cpu/vectorize.hpp"

namespace apb::cpu {
namespace {

struct F16 {
  std::uint16_t bits = 0;
};

/// The exponent bias differs by 112: shift into place and scale, which is exact for subnormal numbers too.
inline float to_float(F16 value) {
  const std::uint32_t magnitude = (value.bits & 0x7FFFU) << 13U;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112F;
  const std::uint32_t special = magnitude | 0x7F800000U;
  const bool is_special = magnitude >= 0x0F800000U;
  const std::uint32_t sign = (value.bits & 0x8000U) << 16U;
  return std::bit_cast<float>((is_special ? special : std::bit_cast<std::uint32_t>(scaled)) | sign);
}

APB_VECTORIZED void widen(const Bf16* source, float* destination, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) destination[i] = cpu::to_float(source[i]);
}

APB_VECTORIZED void widen(const F16* source, float* destination, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) destination[i] = to_float(source[i]);
}

APB_VECTORIZED void narrow(const float* source, Bf16* destination, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) destination[i] = to_bf16(source[i]);
}

APB_VECTORIZED void narrow(const F16* source, Bf16* destination, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) destination[i] = to_bf16(to_float(source[i]));
}

}  // namespace

void convert(const std::byte* source, DataType source_type, std::byte* destination, DataType destination_type,
             std::int64_t count) {
  using enum DataType;
  if (count == 0) return;  // memcpy wants no null pointers, even then
  if (source_type == destination_type) {
    std::memcpy(destination, source, static_cast<std::size_t>(count) * size_of(source_type));
  } else if (source_type == bf16 && destination_type == f32) {
    widen(reinterpret_cast<const Bf16*>(source), reinterpret_cast<float*>(destination), count);
  } else if (source_type == f16 && destination_type == f32) {
    widen(reinterpret_cast<const F16*>(source), reinterpret_cast<float*>(destination), count);
  } else if (source_type == f32 && destination_type == bf16) {
    narrow(reinterpret_cast<const float*>(source), reinterpret_cast<Bf16*>(destination), count);
  } else if (source_type == f16 && destination_type == bf16) {
    narrow(reinterpret_cast<const F16*>(source), reinterpret_cast<Bf16*>(destination), count);
  } else {
    throw std::invalid_argument("no conversion between these types");
  }
}

}  // namespace apb::cpu
