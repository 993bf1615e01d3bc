#include "model/random_weights.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <new>
#include <span>

#include "cpu/vectorize.hpp"
#include "error.hpp"

namespace apb {
namespace {

constexpr std::align_val_t cache_line{64};
constexpr double bias_deviation = 0.02;
constexpr std::uint16_t one_in_bf16 = 0x3F80;
constexpr std::int64_t block_values = 1 << 16;  // made by one thread at a time

std::uint64_t hash_of(std::uint64_t seed, std::string_view name) {  // FNV-1a
  std::uint64_t hash = 0xCBF29CE484222325U ^ seed;
  for (const char character : name) hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001B3U;
  return hash;
}

/// The finaliser of MurmurHash3, which mixes all 32 bits.
[[gnu::always_inline]] inline std::uint32_t mix(std::uint32_t bits) {
  bits = (bits ^ (bits >> 16U)) * 0x85EBCA6BU;
  bits = (bits ^ (bits >> 13U)) * 0xC2B2AE35U;
  return bits ^ (bits >> 16U);
}

/// values[i] = bf16 of `scale` times the sum of four random bytes less its mean, 510: near normal, deviation 147.8.
APB_VECTORIZED void fill(std::uint16_t* values, std::int64_t count, std::uint32_t key, float scale) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t random = mix(key ^ mix(static_cast<std::uint32_t>(i) + 0x9E3779B9U));
    const std::uint32_t pairs = (random & 0x00FF00FFU) + ((random >> 8U) & 0x00FF00FFU);
    const auto sum = static_cast<std::int32_t>((pairs & 0xFFFFU) + (pairs >> 16U));
    const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(sum - 510) * scale);
    values[i] = static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
  }
}

std::shared_ptr<std::byte> allocate(std::size_t bytes, std::string_view name) {
  auto* const memory = static_cast<std::byte*>(::operator new(bytes, cache_line, std::nothrow));
  if (memory == nullptr) fail("out of memory: {} bytes for tensor \"{}\"", bytes, name);
  return {memory, [](std::byte* released) { ::operator delete(released, cache_line); }};
}

}  // namespace

HostMatrix RandomWeights::tensor(std::string_view name, std::int64_t rows, std::int64_t columns) const {
  const std::int64_t count = rows * columns;
  const auto memory = allocate(static_cast<std::size_t>(count) * sizeof(std::uint16_t), name);
  auto* const values = reinterpret_cast<std::uint16_t*>(memory.get());
  if (name.ends_with("norm.weight")) {
    std::fill(values, values + count, one_in_bf16);
  } else {
    const double deviation = rows == 1 ? bias_deviation : 1.0 / std::sqrt(static_cast<double>(columns));
    const auto scale = static_cast<float>(deviation / std::sqrt(4.0 * (256.0 * 256.0 - 1.0) / 12.0));
    const std::uint64_t hash = hash_of(seed_, name);
#pragma omp parallel for num_threads(threads_)
    for (std::int64_t first = 0; first < count; first += block_values) {
      const std::uint64_t block = hash + static_cast<std::uint64_t>(first / block_values) * 0x9E3779B97F4A7C15U;
      const std::uint32_t key =
          mix(static_cast<std::uint32_t>(block)) ^ mix(static_cast<std::uint32_t>(block >> 32U) ^ 0x5BD1E995U);
      fill(values + first, std::min(block_values, count - first), key, scale);
    }
  }
  return {{memory.get(), DataType::bf16, Space::host, rows, columns, columns}, memory};
}

}  // namespace apb
