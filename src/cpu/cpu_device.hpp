// The CPU as a device: every operation runs at once, on `threads` threads of this rank.
#pragma once

#include <memory>
#include <string>

#include "device/device.hpp"

namespace apb {

struct CpuOptions {
  int threads = 1;
  DataType compute_type = DataType::bf16;  // or f32
};

std::unique_ptr<Device> make_cpu_device(const CpuOptions& options);

}  // namespace apb
