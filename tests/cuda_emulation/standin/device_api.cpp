// The CUDA runtime's functions about devices and errors.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "runtime.hpp"

using namespace apb::emulation;

namespace {

/// The GPU that the calling thread has chosen.
thread_local int chosen_device = 0;

cudaDeviceProp properties_of(int device) {
  const Settings& settings = Runtime::instance().settings;
  cudaDeviceProp properties{};
  std::snprintf(properties.name, sizeof properties.name, "emulated GPU");
  properties.uuid.bytes[0] = static_cast<char>(device + 1);
  properties.major = 9;
  properties.minor = 0;
  properties.totalGlobalMem = settings.memory_bytes;
  properties.multiProcessorCount = settings.multiprocessors;
  properties.warpSize = 32;
  properties.sharedMemPerBlock = shared_bytes_per_block;
  properties.sharedMemPerBlockOptin = shared_bytes_opt_in;
  properties.sharedMemPerMultiprocessor = shared_bytes_per_multiprocessor;
  properties.reservedSharedMemPerBlock = shared_bytes_reserved_per_block;
  properties.regsPerBlock = 65536;
  properties.regsPerMultiprocessor = 65536;
  properties.maxThreadsPerBlock = threads_per_block;
  properties.maxThreadsPerMultiProcessor = threads_per_multiprocessor;
  properties.maxBlocksPerMultiProcessor = blocks_per_multiprocessor;
  properties.l2CacheSize = 50 << 20;
  properties.memoryBusWidth = 5120;
  properties.unifiedAddressing = 1;
  properties.concurrentKernels = 1;
  properties.asyncEngineCount = 3;
  properties.pciBusID = device + 1;
  return properties;
}

cudaError_t check_device(int device) {
  const int gpus = Runtime::instance().settings.gpus;
  if (gpus == 0) return cudaErrorNoDevice;
  return device >= 0 && device < gpus ? cudaSuccess : cudaErrorInvalidDevice;
}

struct ErrorWords {
  const char* name;
  const char* words;
};

const std::map<cudaError_t, ErrorWords>& error_words() {
  static const std::map<cudaError_t, ErrorWords> all{
      {cudaSuccess, {"cudaSuccess", "no error"}},
      {cudaErrorInvalidValue, {"cudaErrorInvalidValue", "invalid argument"}},
      {cudaErrorMemoryAllocation, {"cudaErrorMemoryAllocation", "out of memory"}},
      {cudaErrorInvalidConfiguration, {"cudaErrorInvalidConfiguration", "invalid configuration argument"}},
      {cudaErrorInvalidPitchValue, {"cudaErrorInvalidPitchValue", "invalid pitch argument"}},
      {cudaErrorInvalidMemcpyDirection, {"cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"}},
      {cudaErrorInvalidDeviceFunction, {"cudaErrorInvalidDeviceFunction", "invalid device function"}},
      {cudaErrorNoDevice, {"cudaErrorNoDevice", "no CUDA-capable device is detected"}},
      {cudaErrorInvalidDevice, {"cudaErrorInvalidDevice", "invalid device ordinal"}},
      {cudaErrorInvalidResourceHandle, {"cudaErrorInvalidResourceHandle", "invalid resource handle"}},
      {cudaErrorNotReady, {"cudaErrorNotReady", "device not ready"}},
      {cudaErrorIllegalAddress, {"cudaErrorIllegalAddress", "an illegal memory access was encountered"}},
      {cudaErrorMisalignedAddress, {"cudaErrorMisalignedAddress", "misaligned address"}},
      {cudaErrorAssert, {"cudaErrorAssert", "device-side assert triggered"}},
      {cudaErrorLaunchFailure, {"cudaErrorLaunchFailure", "unspecified launch failure"}},
      {cudaErrorNotSupported, {"cudaErrorNotSupported", "operation not supported"}},
      {cudaErrorUnknown, {"cudaErrorUnknown", "unknown error"}},
  };
  return all;
}

ErrorWords words_of(cudaError_t error) {
  const auto found = error_words().find(error);
  return found == error_words().end() ? ErrorWords{"cudaError", "an error that the emulation has no words for"}
                                      : found->second;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  return Runtime::instance().call([&] {
    *count = Runtime::instance().settings.gpus;
    return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return Runtime::instance().call([&] {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) chosen_device = device;
    return error;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return Runtime::instance().call([&] {
    *device = chosen_device;
    return check_device(chosen_device);
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return Runtime::instance().call([&] {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) *properties = properties_of(device);
    return error;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return Runtime::instance().call([&] {
    if (const cudaError_t error = check_device(device); error != cudaSuccess) return error;
    const cudaDeviceProp properties = properties_of(device);
    switch (attribute) {
      case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(properties.sharedMemPerBlockOptin);
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        return cudaSuccess;
      default:
        return cudaErrorNotSupported;
    }
  });
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  return Runtime::instance().call([&] {
    if (const cudaError_t error = check_device(device); error != cudaSuccess) return error;
    const int written = std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", device + 1);
    return written < length ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return Runtime::instance().take_last_error(); }
cudaError_t cudaPeekAtLastError() { return Runtime::instance().last_error(); }
const char* cudaGetErrorName(cudaError_t error) { return words_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return words_of(error).words; }
}
