#include "tasks/random.hpp"

#include <fmt/format.h>

#include <limits>
#include <unordered_set>

namespace apb {

std::uint64_t TaskRandom::bits() {
  state_ += 0x9E3779B97F4A7C15U;
  std::uint64_t mixed = state_;
  mixed = (mixed ^ (mixed >> 30U)) * 0xBF58476D1CE4E5B9U;
  mixed = (mixed ^ (mixed >> 27U)) * 0x94D049BB133111EBU;
  return mixed ^ (mixed >> 31U);
}

TaskRandom TaskRandom::derived(std::string_view text, std::uint64_t number) const {
  TaskRandom random(state_);
  for (const char character : text) random.state_ = random.bits() ^ static_cast<unsigned char>(character);
  random.state_ = random.bits() ^ number;
  return TaskRandom(random.bits());
}

std::uint64_t TaskRandom::below(std::uint64_t bound) {
  // The largest multiple of the bound: what lies beyond it would favour small numbers.
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t usable = most - most % bound;
  for (;;) {
    const std::uint64_t drawn = bits();
    if (drawn < usable) return drawn % bound;
  }
}

std::vector<std::size_t> TaskRandom::sample(std::size_t size, std::size_t count) {
  std::vector<std::size_t> drawn;
  std::unordered_set<std::size_t> seen;
  drawn.reserve(count);
  // Floyd's algorithm: the set is even, and the shuffle makes the order so.
  for (std::size_t last = size - count; last < size; ++last) {
    const std::size_t candidate = index(last + 1);
    const bool is_new = seen.insert(candidate).second;
    if (!is_new) seen.insert(last);
    drawn.push_back(is_new ? candidate : last);
  }
  shuffle(drawn);
  return drawn;
}

std::string random_uuid(TaskRandom& random) {
  const std::uint64_t high = (random.bits() & ~std::uint64_t{0xF000}) | 0x4000U;
  const std::uint64_t low = (random.bits() & ~(std::uint64_t{3} << 62U)) | (std::uint64_t{2} << 62U);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32U, (high >> 16U) & 0xFFFFU, high & 0xFFFFU,
                     low >> 48U, low & 0xFFFF'FFFF'FFFFU);
}

}  // namespace apb
