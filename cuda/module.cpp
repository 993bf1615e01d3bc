// The module's entry: what the program finds in it at run time.
#include "comm/gpu_module.hpp"
#include "cuda/cuda_device.hpp"
#include "cuda/nccl_communicator.hpp"

namespace apb::cuda {
namespace {

constexpr std::chrono::seconds connection_limit{120};

class CudaModule : public GpuModule {
 public:
  int visible_gpus() const override { return cuda::visible_gpus(); }
  std::string gpu_id(int gpu) const override { return cuda::gpu_id(gpu); }
  std::unique_ptr<Device> make_device(int gpu) const override { return std::make_unique<CudaDevice>(gpu); }
  std::unique_ptr<Communicator> make_communicator(Communicator& host, Device& device) const override {
    return std::make_unique<NcclCommunicator>(host, dynamic_cast<CudaDevice&>(device), connection_limit);
  }
};

}  // namespace
}  // namespace apb::cuda

extern "C" const apb::GpuModule* apb_gpu_module() {
  static const apb::cuda::CudaModule module;
  return &module;
}
