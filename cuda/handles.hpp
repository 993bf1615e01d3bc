// Owners of CUDA's streams, events and memory. What fails while they are given back is not worth an error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <type_traits>

#include "cuda/check.hpp"

namespace apb::cuda {

template <auto destroy>
struct Destroyer {
  template <typename Pointer>
  void operator()(Pointer pointer) const {
    static_cast<void>(destroy(pointer));
  }
};

using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroyer<cudaStreamDestroy>>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroyer<cudaEventDestroy>>;
using DeviceMemory = std::unique_ptr<std::byte, Destroyer<cudaFree>>;
using PinnedMemory = std::unique_ptr<std::byte, Destroyer<cudaFreeHost>>;

/// A stream that does not wait for the default stream.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}

/// For order alone.
inline Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return Event(event);
}

inline Event make_timed_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return Event(event);
}

inline PinnedMemory make_pinned_memory(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return PinnedMemory(static_cast<std::byte*>(memory));
}

}  // namespace apb::cuda
