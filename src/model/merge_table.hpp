// The merges of byte-pair encoding by their pair of tokens: looked up for every pair of neighbours in a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace apb {

struct Merge {
  std::int32_t rank = -1;  // lower ones come first; -1: there is no merge
  std::int32_t id = -1;    // of the result
};

/// A hash table without chains: two to four places per merge, so that lookups stay in the processor's cache.
class MergeTable {
 public:
  /// Empties the table and makes room for this many merges.
  void reset(std::size_t merges) {
    std::size_t size = 4;
    while (size < 2 * merges) size *= 2;
    places_.assign(size, {});
  }

  /// Adds or replaces a merge; there must be room for it. Ids are not negative.
  void set(std::int32_t left, std::int32_t right, Merge merge) { places_[find(left, right)] = {left, right, merge}; }

  /// The merge of the pair, if there is one.
  Merge get(std::int32_t left, std::int32_t right) const { return places_[find(left, right)].merge; }

 private:
  struct Place {
    std::int32_t left = -1;
    std::int32_t right = -1;
    Merge merge{};
  };

  /// Where the pair is, or would be.
  std::size_t find(std::int32_t left, std::int32_t right) const {
    const auto key = static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U |
                     static_cast<std::uint64_t>(static_cast<std::uint32_t>(right));
    const auto mask = places_.size() - 1;
    auto index = static_cast<std::size_t>(key * 0x9E3779B97F4A7C15U >> 32U) & mask;
    while (places_[index].left >= 0 && (places_[index].left != left || places_[index].right != right)) {
      index = (index + 1) & mask;
    }
    return index;
  }

  std::vector<Place> places_ = std::vector<Place>(1);  // a power of two, one at least stays empty
};

}  // namespace apb
