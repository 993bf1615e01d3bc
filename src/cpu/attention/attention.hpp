// Attention with online softmax over slots, never a full score matrix in memory.
#pragma once

#include <functional>
#include <vector>

#include "cpu/attention/kernel.hpp"
#include "cpu/scratch.hpp"
#include "device/device.hpp"

namespace apb::cpu {

/// Consecutive tokens of a slot, few enough to stay in the second cache.
struct TokenRun {
  Slot slot;
  std::int64_t first = 0;
  int count = 0;
  std::int64_t first_visible = 0;  // how many of them the first query row sees; the next row sees one more
};

class Attention {
 public:
  /// With the fastest kernel that this processor runs for the type and each head_dim, or with the one given.
  Attention(int threads, DataType compute_type, const AttentionKernel* kernel = nullptr)
      : threads_(threads), type_(compute_type), wanted_(kernel) {}

  /// Device::attention. The same bits for any number of threads. Calls `progress`, if there is any, in this thread
  /// between runs of keys, and in the end until other threads are done as long as it returns true.
  void run(const AttentionArguments& arguments, const std::function<bool()>& progress = {});

 private:
  const AttentionKernel& kernel_for(int head_dim) const;

  int threads_;
  DataType type_;
  const AttentionKernel* wanted_;
  std::vector<TokenRun> runs_;  // of the call under way
  Scratch memory_;
};

}  // namespace apb::cpu
