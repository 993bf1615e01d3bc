// Attention with online softmax over slots, never a full score matrix in memory.
#pragma once

#include <memory>

#include "device/device.hpp"

namespace apb::cpu {

class Attention {
 public:
  Attention(int threads, DataType compute_type);
  ~Attention();
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  /// Device::attention.
  void run(const AttentionArguments& arguments);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace apb::cpu
