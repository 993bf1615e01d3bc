// The CUDA runtime's functions about memory.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "runtime.hpp"
#include "transfer.hpp"

using namespace apb::emulation;

extern "C" {

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    apb::ptx::Memory& memory = runtime.machine.memory();
    const std::size_t used = memory.allocated_bytes();
    if (used > runtime.settings.memory_bytes || bytes > runtime.settings.memory_bytes - used) {
      return cudaErrorMemoryAllocation;
    }
    ++runtime.counts.device_allocations;
    *pointer = memory.allocate(bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void* pointer) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    if (pointer == nullptr) return cudaSuccess;
    ++runtime.counts.host_waits;
    runtime.scheduler.finish_all();
    return runtime.machine.memory().release(pointer) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned /*flags*/) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    constexpr std::size_t page = 4096;
    const std::size_t rounded = (bytes + page - 1) / page * page;
    PinnedMemory memory;
    memory.data.reset(static_cast<std::byte*>(std::aligned_alloc(page, rounded)));
    memory.bytes = bytes;
    if (!memory.data) throw std::bad_alloc();
    std::memset(memory.data.get(), 0xFF, rounded);
    ++runtime.counts.host_allocations;
    *pointer = memory.data.get();
    runtime.pinned.emplace(*pointer, std::move(memory));
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }

cudaError_t cudaFreeHost(void* pointer) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    if (pointer == nullptr) return cudaSuccess;
    ++runtime.counts.host_waits;
    runtime.scheduler.finish_all();
    return runtime.pinned.erase(pointer) == 1 ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    *total = runtime.settings.memory_bytes;
    *free = *total - std::min(*total, runtime.machine.memory().allocated_bytes());
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    const MemoryKind kind = runtime.kind_of(pointer);
    *attributes = {};
    attributes->type = kind == MemoryKind::device   ? cudaMemoryTypeDevice
                       : kind == MemoryKind::pinned ? cudaMemoryTypeHost
                                                    : cudaMemoryTypeUnregistered;
    if (kind == MemoryKind::device) attributes->devicePointer = const_cast<void*>(pointer);
    if (kind == MemoryKind::pinned) attributes->hostPointer = const_cast<void*>(pointer);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy(destination, source, {bytes, 1, bytes, bytes}, kind, stream, false);
}

cudaError_t cudaMemcpy(void* destination, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  return copy(destination, source, {bytes, 1, bytes, bytes}, kind, nullptr, true);
}

cudaError_t cudaMemcpy2DAsync(void* destination, std::size_t destination_pitch, const void* source,
                              std::size_t source_pitch, std::size_t width, std::size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return copy(destination, source, {width, height, destination_pitch, source_pitch}, kind, stream, false);
}

cudaError_t cudaMemcpy2D(void* destination, std::size_t destination_pitch, const void* source, std::size_t source_pitch,
                         std::size_t width, std::size_t height, cudaMemcpyKind kind) {
  return copy(destination, source, {width, height, destination_pitch, source_pitch}, kind, nullptr, true);
}

cudaError_t cudaMemsetAsync(void* destination, int value, std::size_t bytes, cudaStream_t stream) {
  return fill(destination, value, {bytes, 1, bytes, bytes}, stream);
}

cudaError_t cudaMemset(void* destination, int value, std::size_t bytes) {
  return fill(destination, value, {bytes, 1, bytes, bytes}, nullptr);
}

cudaError_t cudaMemset2DAsync(void* destination, std::size_t pitch, int value, std::size_t width, std::size_t height,
                              cudaStream_t stream) {
  return fill(destination, value, {width, height, pitch, pitch}, stream);
}
}
