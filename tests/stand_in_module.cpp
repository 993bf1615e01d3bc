// A module of GPUs that are not there, for tests of what the program does with modules: it computes on the CPU.
// STAND_IN_GPUS: how many it has (0 where it is missing); STAND_IN_SAME_GPU: all ranks are given the same one;
// STAND_IN_MEMORY: bytes that are free; STAND_IN_FAILURE: what making the device fails with.
#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "comm/gpu_module.hpp"
#include "comm/mpi_communicator.hpp"
#include "cpu/cpu_device.hpp"
#include "deferred_device.hpp"
#include "error.hpp"

namespace apb {
namespace {

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// The CPU, as far as it can pass for a GPU.
class StandInDevice : public DeferredDevice {
 public:
  StandInDevice(std::unique_ptr<Device> cpu, int gpu) : DeferredDevice(*cpu), cpu_(std::move(cpu)), gpu_(gpu) {}

  std::string description() const override { return fmt::format("stand-in GPU {}", gpu_); }
  std::string memory_place() const override { return fmt::format("GPU {}", gpu_); }
  std::size_t available_memory() const override {
    const std::string bytes = setting("STAND_IN_MEMORY");
    return bytes.empty() ? DeferredDevice::available_memory() : std::stoull(bytes);
  }
  void check_heads(const HeadShape& shape) const override {
    if (shape.head_dim == 24) fail("head_dim 24 is not for this device");
  }

 private:
  std::unique_ptr<Device> cpu_;
  int gpu_;
};

class StandInModule : public GpuModule {
 public:
  int visible_gpus() const override {
    const std::string count = setting("STAND_IN_GPUS");
    if (count.empty()) fail("no GPU: none was set up");
    return std::stoi(count);
  }
  std::string gpu_id(int gpu) const override {
    return setting("STAND_IN_SAME_GPU").empty() ? fmt::format("stand-in {}", gpu) : "the one";
  }
  std::unique_ptr<Device> make_device(int gpu) const override {
    if (const std::string failure = setting("STAND_IN_FAILURE"); !failure.empty()) fail("{}", failure);
    return std::make_unique<StandInDevice>(make_cpu_device({.threads = 1, .compute_type = DataType::bf16}), gpu);
  }
  std::unique_ptr<Communicator> make_communicator(Communicator& /*host*/, Device& /*device*/) const override {
    return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD);
  }
};

}  // namespace
}  // namespace apb

extern "C" const apb::GpuModule* apb_gpu_module() {
  static const apb::StandInModule module;
  return &module;
}
