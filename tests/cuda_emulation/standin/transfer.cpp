#include "transfer.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime.hpp"

namespace apb::emulation {
namespace {

bool kind_fits(cudaMemcpyKind kind, MemoryKind destination, MemoryKind source) {
  const bool to_device = destination == MemoryKind::device;
  const bool from_device = source == MemoryKind::device;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    default:
      return true;
  }
}

std::size_t extent(const CopyShape& shape, std::size_t stride) { return (shape.rows - 1) * stride + shape.bytes; }

/// A hash of the rows, to see whether they change.
std::uint64_t fingerprint(const std::byte* data, const CopyShape& shape) {
  std::uint64_t hash = 0;
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const auto* text = reinterpret_cast<const char*>(data + row * shape.source_stride);
    hash = hash * 0x9e3779b97f4a7c15U + std::hash<std::string_view>{}({text, shape.bytes});
  }
  return hash;
}

void copy_rows(std::byte* destination, const std::byte* source, const CopyShape& shape, MemoryKind destination_kind,
               MemoryKind source_kind) {
  ptx::Memory& memory = Runtime::instance().machine.memory();
  for (std::size_t row = 0; row < shape.rows; ++row) {
    std::byte* const to = destination + row * shape.destination_stride;
    const std::byte* const from = source + row * shape.source_stride;
    if (source_kind == MemoryKind::device && destination_kind == MemoryKind::device) {
      memory.mark_copied(to, from, shape.bytes);
    } else if (source_kind == MemoryKind::device) {
      memory.check_readable(from, shape.bytes);
    } else if (destination_kind == MemoryKind::device) {
      memory.mark_written(to, shape.bytes);
    }
    std::memmove(to, from, shape.bytes);
  }
}

/// Pinned memory that operations which have not run read or write.
bool in_use(const std::byte* data, std::size_t bytes) {
  auto& uses = Runtime::instance().pinned_uses;
  std::erase_if(uses, [](const PinnedUse& use) { return use.operation->done; });
  for (const PinnedUse& use : uses) {
    if (data < use.data + use.bytes && use.data < data + bytes) return true;
  }
  return false;
}

void poison_until_run(std::byte* data, const CopyShape& shape) {
  if (in_use(data, extent(shape, shape.destination_stride))) return;
  for (std::size_t row = 0; row < shape.rows; ++row) {
    std::memset(data + row * shape.destination_stride, 0xFF, shape.bytes);
  }
}

}  // namespace

cudaError_t copy(void* destination, const void* source, const CopyShape& shape, cudaMemcpyKind kind,
                 cudaStream_t stream, bool blocking) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    if (runtime.find(stream) == nullptr) return cudaErrorInvalidResourceHandle;
    if (shape.bytes == 0 || shape.rows == 0) return cudaSuccess;
    if (shape.bytes > shape.destination_stride || shape.bytes > shape.source_stride) return cudaErrorInvalidPitchValue;
    const MemoryKind to = runtime.kind_of(destination);
    const MemoryKind from = runtime.kind_of(source);
    if (!kind_fits(kind, to, from)) return cudaErrorInvalidMemcpyDirection;

    auto* const destination_bytes = static_cast<std::byte*>(destination);
    const auto* source_bytes = static_cast<const std::byte*>(source);
    const std::size_t source_extent = extent(shape, shape.source_stride);
    std::function<void()> run;
    if (from == MemoryKind::pageable) {
      auto staged = std::make_shared<std::vector<std::byte>>(source_bytes, source_bytes + source_extent);
      run = [=] { copy_rows(destination_bytes, staged->data(), shape, to, from); };
    } else if (from == MemoryKind::pinned) {
      run = [=, before = fingerprint(source_bytes, shape)] {
        if (fingerprint(source_bytes, shape) != before) {
          throw std::runtime_error("the host changed the pinned source of a copy before the copy had run");
        }
        copy_rows(destination_bytes, source_bytes, shape, to, from);
      };
    } else {
      run = [=] { copy_rows(destination_bytes, source_bytes, shape, to, from); };
    }
    if (to == MemoryKind::pinned) poison_until_run(destination_bytes, shape);
    const OperationHandle operation = runtime.enqueue(stream, "copy", std::move(run));
    if (to == MemoryKind::pinned) {
      runtime.pinned_uses.push_back({destination_bytes, extent(shape, shape.destination_stride), operation});
    }
    if (from == MemoryKind::pinned) runtime.pinned_uses.push_back({source_bytes, source_extent, operation});
    if (to == MemoryKind::pageable || (blocking && (to == MemoryKind::pinned || from == MemoryKind::pinned))) {
      ++runtime.counts.host_waits;
      runtime.scheduler.finish(operation);
    }
    return cudaSuccess;
  });
}

cudaError_t fill(void* destination, int value, const CopyShape& shape, cudaStream_t stream) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    if (runtime.find(stream) == nullptr) return cudaErrorInvalidResourceHandle;
    if (shape.bytes == 0 || shape.rows == 0) return cudaSuccess;
    if (runtime.kind_of(destination) != MemoryKind::device) return cudaErrorInvalidValue;
    runtime.enqueue(stream, "fill", [=, &runtime] {
      for (std::size_t row = 0; row < shape.rows; ++row) {
        std::byte* const data = static_cast<std::byte*>(destination) + row * shape.destination_stride;
        runtime.machine.memory().mark_written(data, shape.bytes);
        std::memset(data, value, shape.bytes);
      }
    });
    return cudaSuccess;
  });
}

}  // namespace apb::emulation
