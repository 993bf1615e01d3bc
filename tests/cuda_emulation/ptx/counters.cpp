// What an access costs on a GPU: wavefronts of shared memory, sectors of global memory.
#include <algorithm>

#include "ptx/access.hpp"

namespace apb::ptx {
namespace {

constexpr unsigned banks = 32;

/// Wavefronts for the lanes [first, end): the most distinct words of one bank.
unsigned wavefronts(const Access& access, int first, int end) {
  const unsigned words = std::max(access.bytes / 4, 1U);
  std::uint32_t taken = 0;
  bool simple = true;
  unsigned active = 0;
  for (int lane = first; lane < end; ++lane) {
    if (((access.mask >> lane) & 1U) == 0) continue;
    ++active;
    const auto word = static_cast<std::uint32_t>(access.address[static_cast<std::size_t>(lane)] / 4);
    const std::uint32_t bits = words >= banks ? ~0U : ((1U << words) - 1) << (word % banks);
    simple = simple && (taken & bits) == 0;
    taken |= bits;
  }
  if (active == 0) return 0;
  if (simple) return 1;
  std::array<std::uint64_t, std::size_t{banks} * 4> distinct{};
  std::size_t count = 0;
  for (int lane = first; lane < end; ++lane) {
    if (((access.mask >> lane) & 1U) == 0) continue;
    for (unsigned w = 0; w < words; ++w) distinct[count++] = access.address[static_cast<std::size_t>(lane)] / 4 + w;
  }
  std::sort(distinct.begin(), distinct.begin() + static_cast<std::ptrdiff_t>(count));
  std::array<unsigned, banks> in_bank{};
  for (std::size_t i = 0; i < count; ++i) {
    if (i == 0 || distinct[i] != distinct[i - 1]) ++in_bank[distinct[i] % banks];
  }
  return *std::max_element(in_bank.begin(), in_bank.end());
}

}  // namespace

void count_shared(SharedAccesses& counters, const Access& access) {
  ++counters.accesses;
  // A wavefront moves 128 bytes: 32 lanes of 4 bytes, 16 of 8, 8 of 16.
  const int group = access.bytes <= 4 ? 32 : access.bytes == 8 ? 16 : 8;
  for (int first = 0; first < lanes; first += group) {
    const unsigned needed = wavefronts(access, first, first + group);
    if (needed > 1) counters.extra_wavefronts += needed - 1;
  }
}

void count_global(GlobalAccesses& counters, const Access& access) {
  std::array<std::uint64_t, lanes> at{};
  std::size_t count = 0;
  bool ascending = true;
  for_lanes(access.mask, [&](int lane) {
    at[count] = access.address[static_cast<std::size_t>(lane)];
    if (count > 0 && at[count] < at[count - 1]) ascending = false;
    ++count;
  });
  if (count == 0) return;
  if (!ascending) std::sort(at.begin(), at.begin() + static_cast<std::ptrdiff_t>(count));
  constexpr std::uint64_t sector = 32;
  std::uint64_t sectors = 0;
  std::uint64_t bytes = 0;
  std::uint64_t last_sector = ~std::uint64_t{0};
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto stop = at[i] + access.bytes;
    bytes += stop > end ? stop - std::max(at[i], end) : 0;
    end = std::max(end, stop);
    for (auto s = at[i] / sector; s <= (stop - 1) / sector; ++s) {
      if (s != last_sector) ++sectors;
      last_sector = s;
    }
  }
  ++counters.accesses;
  counters.sectors += sectors;
  counters.bytes += bytes;
  counters.least_sectors += (bytes + sector - 1) / sector;
}

}  // namespace apb::ptx
