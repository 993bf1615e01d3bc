// The CUDA runtime's functions about kernels: launches, attributes, occupancy.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "runtime.hpp"

namespace apb::emulation {
namespace {

struct Launch {
  dim3 grid{};
  dim3 block{};
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

/// What <<<...>>> leaves for the kernel's host function.
thread_local Launch configured;

/// The values of a kernel's parameters, kept until it runs.
class Arguments {
 public:
  Arguments(const ptx::Kernel& kernel, void* const* values) : bytes_(kernel.parameter_bytes()) {
    for (std::size_t i = 0; i < kernel.parameters().size(); ++i) {
      const ptx::Parameter& parameter = kernel.parameters()[i];
      std::memcpy(bytes_.data() + parameter.offset, values[i], parameter.bytes);
      pointers_.push_back(bytes_.data() + parameter.offset);
    }
  }
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;
  const void* const* pointers() const { return pointers_.data(); }

 private:
  std::vector<std::byte> bytes_;
  std::vector<const void*> pointers_;
};

bool within(const dim3& size, const dim3& limit) {
  return size.x > 0 && size.y > 0 && size.z > 0 && size.x <= limit.x && size.y <= limit.y && size.z <= limit.z;
}

cudaError_t check(const Launch& launch, const RegisteredKernel& kernel, const ptx::Kernel& code) {
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  if (!within(launch.grid, {0x7fffffff, 65535, 65535}) || !within(launch.block, {1024, 1024, 64}) ||
      threads > threads_per_block) {
    return cudaErrorInvalidConfiguration;
  }
  if (code.max_threads() != 0 && threads > code.max_threads()) return cudaErrorInvalidValue;
  if (launch.shared_bytes > kernel.dynamic_shared_bytes) return cudaErrorInvalidValue;
  if (launch.shared_bytes + code.static_shared_bytes() > shared_bytes_opt_in) return cudaErrorInvalidValue;
  return cudaSuccess;
}

cudaError_t launch(const Launch& launch, const void* function, void** values) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    RegisteredKernel* const kernel = runtime.binaries.find_kernel(function);
    if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
    if (runtime.find(launch.stream) == nullptr) return cudaErrorInvalidResourceHandle;
    const apb::ptx::Kernel& code = kernel->code(runtime.machine.memory());
    if (const cudaError_t error = check(launch, *kernel, code); error != cudaSuccess) return error;
    const auto arguments = std::make_shared<Arguments>(code, values);
    runtime.enqueue(launch.stream, kernel->name, [&runtime, &code, launch, arguments] {
      const auto& [grid, block, shared_bytes, stream] = launch;
      runtime.machine.launch(code, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes,
                             arguments->pointers(),
                             {.max_dynamic_shared_bytes = shared_bytes, .max_shared_bytes = shared_bytes_opt_in});
    });
    return cudaSuccess;
  });
}

/// Blocks of the kernel that a multiprocessor holds, registers apart: PTX does not say how many there are.
int resident_blocks(const ptx::Kernel& code, int block_threads, std::size_t dynamic_shared_bytes) {
  const unsigned warps = (static_cast<unsigned>(block_threads) + 31) / 32;
  const std::size_t shared = code.static_shared_bytes() + dynamic_shared_bytes + shared_bytes_reserved_per_block;
  const std::size_t by_shared = shared_bytes_per_multiprocessor / shared;
  return static_cast<int>(std::min<std::size_t>(
      {by_shared, threads_per_multiprocessor / (32 * warps), static_cast<std::size_t>(blocks_per_multiprocessor)}));
}

}  // namespace
}  // namespace apb::emulation

using namespace apb::emulation;

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream) {
  configured = {grid, block, shared_bytes, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared_bytes, void* stream) {
  *grid = configured.grid;
  *block = configured.block;
  *shared_bytes = configured.shared_bytes;
  std::memcpy(stream, &configured.stream, sizeof configured.stream);
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    RegisteredKernel* const found = runtime.binaries.find_kernel(function);
    if (found == nullptr) return cudaErrorInvalidDeviceFunction;
    *kernel = reinterpret_cast<cudaKernel_t>(found);
    return cudaSuccess;
  });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared_bytes,
                               cudaStream_t stream) {
  return launch({grid, block, shared_bytes, stream}, kernel, arguments);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared_bytes,
                             cudaStream_t stream) {
  return launch({grid, block, shared_bytes, stream}, function, arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  if (config->numAttrs != 0) return Runtime::instance().call([] { return cudaErrorNotSupported; });
  return launch({config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream}, function, arguments);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    RegisteredKernel* const kernel = runtime.binaries.find_kernel(function);
    if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0) return cudaErrorInvalidValue;
    const auto bytes = static_cast<std::size_t>(value);
    if (bytes + kernel->code(runtime.machine.memory()).static_shared_bytes() > shared_bytes_opt_in) {
      return cudaErrorInvalidValue;
    }
    kernel->dynamic_shared_bytes = bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    const RegisteredKernel* const kernel = runtime.binaries.find_kernel(function);
    if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
    const apb::ptx::Kernel& code = kernel->code(runtime.machine.memory());
    *attributes = {};
    attributes->sharedSizeBytes = code.static_shared_bytes();
    attributes->localSizeBytes = code.local_bytes();
    attributes->maxThreadsPerBlock = static_cast<int>(code.max_threads() != 0 ? code.max_threads() : threads_per_block);
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(kernel->dynamic_shared_bytes);
    attributes->ptxVersion = 80;
    attributes->binaryVersion = 80;
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int block_threads,
                                                                   std::size_t dynamic_shared_bytes,
                                                                   unsigned /*flags*/) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    const RegisteredKernel* const kernel = runtime.binaries.find_kernel(function);
    if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
    if (block_threads < 1) return cudaErrorInvalidValue;
    *blocks = resident_blocks(kernel->code(runtime.machine.memory()), block_threads, dynamic_shared_bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int block_threads,
                                                          std::size_t dynamic_shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_threads, dynamic_shared_bytes,
                                                                cudaOccupancyDefault);
}
}
