// The process's emulated GPU: what the functions of the CUDA runtime, cuBLASLt and NCCL that programs call share.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fat_binary.hpp"
#include "ptx/machine.hpp"
#include "scheduler.hpp"
#include "settings.hpp"

namespace apb::emulation {

/// A program's event: the operation that recorded it last.
struct Event {
  bool timed = true;
  OperationHandle recorded;
};

/// What the program asked for, for tests of what it may do in its inner loops.
struct Counts {
  std::uint64_t device_allocations = 0;
  std::uint64_t host_allocations = 0;
  std::uint64_t host_waits = 0;  // calls that return only when the GPU has done something
  std::uint64_t operations = 0;  // enqueued
};

/// Memory of cudaHostAlloc.
struct PinnedMemory {
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data;
  std::size_t bytes = 0;
};

/// Pinned memory that an operation reads or writes.
struct PinnedUse {
  const std::byte* data;
  std::size_t bytes;
  OperationHandle operation;
};

/// Where a pointer points to.
enum class MemoryKind { device, pinned, pageable };

/// Limits of the emulated GPU, an H100 but for the shared memory: that of an A100, which kernels must do with.
inline constexpr std::size_t shared_bytes_per_block = 48 * 1024;
inline constexpr std::size_t shared_bytes_opt_in = 163 * 1024;
inline constexpr std::size_t shared_bytes_per_multiprocessor = 164 * 1024;
inline constexpr std::size_t shared_bytes_reserved_per_block = 1024;
inline constexpr unsigned threads_per_block = 1024;
inline constexpr unsigned threads_per_multiprocessor = 2048;
inline constexpr unsigned blocks_per_multiprocessor = 32;

class Runtime {
 public:
  static Runtime& instance();
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  /// Runs the body of an API call: alone, unless an earlier kernel has failed; remembers the error it returns.
  cudaError_t call(const std::function<cudaError_t()>& body);
  /// The error of the last failed call, forgotten by it unless the GPU itself has failed.
  cudaError_t take_last_error();
  cudaError_t last_error();

  /// A stream's operation that may throw what the interpreter throws: that is printed, and every later call fails.
  OperationHandle enqueue(cudaStream_t stream, std::string name, std::function<void()> run,
                          std::vector<OperationHandle> after = {});
  /// The GPU fails, as it would on hardware, only with more words.
  void fail(cudaError_t error, const std::string& message);
  bool failed() const { return failure_ != cudaSuccess; }
  cudaError_t failure() const { return failure_; }
  /// What the GPU failed of; the failure is forgotten, as in a new process.
  std::string revive();

  /// Null when the program has no such stream (event).
  Stream* find(cudaStream_t stream) const;
  Event* find(cudaEvent_t event) const;
  MemoryKind kind_of(const void* pointer);

  std::recursive_mutex mutex;
  const Settings settings;
  Counts counts;
  ptx::Machine machine;
  FatBinaries binaries;
  Scheduler scheduler;
  std::map<const void*, StreamHandle> streams;           // by handle
  std::map<const void*, std::unique_ptr<Event>> events;  // by handle
  std::map<const void*, PinnedMemory> pinned;            // by address
  std::vector<PinnedUse> pinned_uses;                    // some of which are over

 private:
  Runtime();

  cudaError_t last_error_ = cudaSuccess;
  std::atomic<cudaError_t> failure_ = cudaSuccess;
  std::string failure_message_;
};

}  // namespace apb::emulation
