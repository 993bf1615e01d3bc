// How the CPU device lays keys and values out in a slot: per KV head first the keys of all tokens, then the values, in
// tiles that matrix instructions, vectors and plain loops all read as they are.
//
// The unit is a word of 32 bits: two bf16 numbers, which are multiplied with two others and added up, or one float.
// Keys: [token / 16][dimension / P][16 tokens][P dimensions], P = numbers in a word.
// Values: [token / 16 P][dimension / 16][16 words of P tokens][16 dimensions][P tokens]; dimensions are filled up to a
// multiple of 16. The words of a bf16 value tile are in the order in which the saturating pack of two vectors of 16
// weights leaves its words, see value_word.
//
// Values behind the last token are zero up to the end of its tile of 32 tokens, so that attention can work on whole
// tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/device.hpp"

namespace apb::cpu {

/// Slots are made of tiles of this many tokens.
inline constexpr int key_tile = 32;
/// Words of a row of a tile, and rows of a tile.
inline constexpr int tile_words = 16;

template <typename Element>
inline constexpr int numbers_in_word = 4 / static_cast<int>(sizeof(Element));

/// Dimensions of a value, filled up to whole tiles.
constexpr int value_width(int head_dim) { return (head_dim + tile_words - 1) / tile_words * tile_words; }

/// Where the word `word` of consecutive tokens stands in a tile of values. Packing two vectors of 16 weights each takes
/// four weights of the first and four of the second in turns, so that tokens 0..3, 16..19, 4..7, 20..23, ... follow one
/// another.
template <typename Element>
constexpr int value_word(int word) {
  if constexpr (numbers_in_word<Element> == 1) return word;
  return word % 8 / 2 * 4 + word / 8 * 2 + word % 2;
}

/// The word that stands at a position: value_word<Element>(word_at<Element>(position)) == position.
template <typename Element>
constexpr int word_at(int position) {
  if constexpr (numbers_in_word<Element> == 1) return position;
  return position / 2 % 2 * 8 + position / 4 * 2 + position % 2;
}

/// The keys and values of one KV head in a slot.
template <typename Element>
class HeadLayout {
 public:
  HeadLayout(const Slot& slot, int head_dim, int kv_head)
      : words_(head_dim / pack),
        tiles_(value_width(head_dim) / tile_words),
        keys_(reinterpret_cast<Element*>(slot.data) +
              static_cast<std::ptrdiff_t>(kv_head) * slot.capacity * (head_dim + value_width(head_dim))),
        values_(keys_ + static_cast<std::ptrdiff_t>(slot.capacity) * head_dim) {}

  Element* keys() const { return keys_; }
  Element* values() const { return values_; }

  Element& key(std::int64_t token, int dimension) const {
    return keys_[((token / tile_words * words_ + dimension / pack) * tile_words + token % tile_words) * pack +
                 dimension % pack];
  }
  Element& value(std::int64_t token, int dimension) const {
    constexpr int tokens = tile_words * pack;
    const int word = value_word<Element>(static_cast<int>(token % tokens) / pack);
    const std::int64_t tile = token / tokens * tiles_ + dimension / tile_words;
    return values_[((tile * tile_words + word) * tile_words + dimension % tile_words) * pack + token % pack];
  }

 private:
  static constexpr int pack = numbers_in_word<Element>;

  int words_;  // of a key
  int tiles_;  // of values, side by side
  Element* keys_;
  Element* values_;
};

inline std::size_t slot_bytes(int capacity, const HeadShape& shape, DataType type) {
  return static_cast<std::size_t>(shape.kv_heads) * static_cast<std::size_t>(capacity) *
         static_cast<std::size_t>(shape.head_dim + value_width(shape.head_dim)) * size_of(type);
}

}  // namespace apb::cpu
