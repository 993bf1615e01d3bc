// Random draws that are the same on every machine: integers only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace apb {

/// SplitMix64, a counter-based generator (Steele, Lea and Flood, 2014).
class TaskRandom {
 public:
  explicit TaskRandom(std::uint64_t seed) : state_(seed) {}

  /// A generator of its own for this text and number.
  TaskRandom derived(std::string_view text, std::uint64_t number) const;

  std::uint64_t bits();

  /// Evenly in [0, bound); bound from 1.
  std::uint64_t below(std::uint64_t bound);
  std::size_t index(std::size_t size) { return static_cast<std::size_t>(below(size)); }

  template <typename Value>
  const Value& choose(const std::vector<Value>& values) {
    return values[index(values.size())];
  }

  template <typename Value>
  void shuffle(std::vector<Value>& values) {
    for (std::size_t left = values.size(); left > 1; --left) std::swap(values[left - 1], values[index(left)]);
  }

  /// `count` different numbers of [0, size) in a random order; count up to size.
  std::vector<std::size_t> sample(std::size_t size, std::size_t count);

 private:
  std::uint64_t state_;
};

/// A UUID of version 4, as RFC 4122 spells it.
std::string random_uuid(TaskRandom& random);

}  // namespace apb
