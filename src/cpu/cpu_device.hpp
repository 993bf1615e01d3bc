// The CPU as a device: every operation runs at once, on `threads` threads of this rank.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/node_memory.hpp"
#include "device/clock.hpp"
#include "device/device.hpp"

namespace apb {

struct CpuOptions {
  int threads = 1;
  DataType compute_type = DataType::bf16;  // or f32
  std::shared_ptr<NodeMemory> node{};      // holds the weights that ranks of one node share; nothing: the rank's own
  std::function<double()> clock = steady_seconds;  // that phases are timed by
};

std::unique_ptr<Device> make_cpu_device(const CpuOptions& options);

}  // namespace apb
