// Scores of a block's tokens, and the choice of the highest. Shapes and types are those of Device's operations of the
// same name and have been checked. Results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "device/device.hpp"

namespace apb::cpu {

/// Device::mean_query; zero where there are no rows.
void mean_query(int threads, const HeadShape& shape, ConstView query, View mean);
/// Device::score_similarity of keys of `type`.
void score_similarity(int threads, const HeadShape& shape, DataType type, ConstView mean, SlotRange keys, View scores);
void score_random(int threads, const RandomScoreKey& key, std::int64_t first_position, View scores);
void score_recent(std::int64_t first_position, View scores);

/// Device::select, with its work space. NaN counts as the lowest score.
class Selection {
 public:
  explicit Selection(int threads) : threads_(threads) {}

  void run(ConstView scores, int pool_window, int excluded, View positions);

 private:
  struct Scratch {
    std::vector<float> scores;  // [tokens] of one KV head
    std::vector<float> pooled;  // [tokens]
    std::vector<std::uint64_t> keys;
  };
  static void select_head(ConstView scores, int head, int pool_window, int excluded, View positions, Scratch& scratch);

  int threads_;
  std::vector<Scratch> scratch_;  // one a thread
};

}  // namespace apb::cpu
