// What a module with a GPU device offers to the program that loads it.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.hpp"
#include "device/device.hpp"

namespace apb {

class GpuModule {
 public:
  GpuModule() = default;
  virtual ~GpuModule() = default;
  GpuModule(const GpuModule&) = delete;
  GpuModule& operator=(const GpuModule&) = delete;

  /// How many GPUs this process sees, at least one; throws Error that says why there is none.
  virtual int visible_gpus() const = 0;
  /// Tells a GPU of this host from the others, in all processes alike.
  virtual std::string gpu_id(int gpu) const = 0;
  virtual std::unique_ptr<Device> make_device(int gpu) const = 0;
  /// Moves the memory of such devices; host memory goes through `host`, which must outlive it. Collective.
  virtual std::unique_ptr<Communicator> make_communicator(Communicator& host, Device& device) const = 0;
};

/// The C function that a module exports: GpuModuleEntry.
inline constexpr const char* gpu_module_entry = "apb_gpu_module";
using GpuModuleEntry = const GpuModule* (*)();

}  // namespace apb
