// How much memory a run has taken, beside what was predicted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.hpp"

namespace apb {

class MemoryReport {
 public:
  /// Before the model is loaded: what is resident now (program, libraries, tokenizer) belongs to the prediction.
  MemoryReport();

  /// What a document needs on this rank (memory_needed); the largest counts.
  void expect(std::size_t bytes) { needed_ = std::max(needed_, static_cast<std::int64_t>(bytes)); }

  /// Rank 0 prints for each host the most that was resident there, and what that was predicted to be: shared memory
  /// counts once. `weights` that this rank has or shares, in bytes; `hosts` of all ranks, on rank 0. Collective.
  void print(Communicator& world, std::size_t weights, const std::vector<std::string>& hosts) const;

 private:
  std::int64_t before_ = 0;
  std::int64_t needed_ = 0;
};

}  // namespace apb
