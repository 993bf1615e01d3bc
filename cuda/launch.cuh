// The one way that kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

namespace apb::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic
};

/// Enqueues kernel(arguments...) and returns the launch's own error. Arguments are copied, of the parameters' types.
template <typename... Parameters>
cudaError_t launch(cudaStream_t stream, const LaunchShape& shape, void (*kernel)(Parameters...),
                   const std::type_identity_t<Parameters>&... arguments) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  constexpr std::size_t without_asking = 48 * 1024;
  if (shape.shared_bytes > without_asking) {
    const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  return cudaLaunchKernelExC(&config, function, pointers);
}

}  // namespace apb::cuda
