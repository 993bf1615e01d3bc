#include "runtime.hpp"

#include <cstdio>
#include <exception>
#include <new>
#include <utility>

#include "report.hpp"

namespace apb::emulation {
namespace {

cudaError_t error_of(const ptx::Violation& violation) {
  switch (violation.fault()) {
    case ptx::Fault::out_of_bounds:
      return cudaErrorIllegalAddress;
    case ptx::Fault::misaligned:
      return cudaErrorMisalignedAddress;
    case ptx::Fault::trap:
      return cudaErrorAssert;
    default:
      return cudaErrorLaunchFailure;
  }
}

}  // namespace

Runtime::Runtime() : settings(settings_from_environment()), scheduler(settings.order) {}

Runtime::~Runtime() {
  if (!settings.report.empty()) write_report(settings.report, counts, machine.counters());
}

Runtime& Runtime::instance() {
  static Runtime runtime;
  return runtime;
}

cudaError_t Runtime::call(const std::function<cudaError_t()>& body) {
  const std::lock_guard lock(mutex);
  if (failed()) return failure_;
  cudaError_t error = cudaSuccess;
  try {
    error = body();
  } catch (const std::bad_alloc&) {
    error = cudaErrorMemoryAllocation;
  } catch (const ptx::LaunchError& refused) {
    std::fprintf(stderr, "emulated GPU: %s\n", refused.what());
    error = cudaErrorInvalidConfiguration;
  } catch (const std::exception& unexpected) {
    fail(cudaErrorUnknown, unexpected.what());
  }
  if (failed()) return failure_;
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error_ = error;
  return error;
}

cudaError_t Runtime::take_last_error() {
  const std::lock_guard lock(mutex);
  return failed() ? failure_.load() : std::exchange(last_error_, cudaSuccess);
}

cudaError_t Runtime::last_error() {
  const std::lock_guard lock(mutex);
  return failed() ? failure_.load() : last_error_;
}

void Runtime::fail(cudaError_t error, const std::string& message) {
  if (failed()) return;
  std::fprintf(stderr, "emulated GPU: %s\n", message.c_str());
  failure_message_ = message;
  failure_ = error;
}

std::string Runtime::revive() {
  const std::lock_guard lock(mutex);
  scheduler.finish_all();
  failure_ = cudaSuccess;
  last_error_ = cudaSuccess;
  return std::exchange(failure_message_, {});
}

OperationHandle Runtime::enqueue(cudaStream_t stream, std::string name, std::function<void()> run,
                                 std::vector<OperationHandle> after) {
  ++counts.operations;
  auto guarded = [this, run = std::move(run)] {
    if (failed()) return;
    try {
      run();
    } catch (const ptx::Violation& violation) {
      fail(error_of(violation), violation.what());
    } catch (const std::exception& error) {
      fail(cudaErrorLaunchFailure, error.what());
    }
  };
  return scheduler.enqueue(*find(stream), std::move(name), std::move(guarded), std::move(after));
}

Stream* Runtime::find(cudaStream_t stream) const {
  if (stream == nullptr || stream == cudaStreamLegacy) return scheduler.default_stream().get();
  const auto found = streams.find(stream);
  return found == streams.end() ? nullptr : found->second.get();
}

Event* Runtime::find(cudaEvent_t event) const {
  const auto found = events.find(event);
  return found == events.end() ? nullptr : found->second.get();
}

MemoryKind Runtime::kind_of(const void* pointer) {
  if (machine.memory().contains(pointer)) return MemoryKind::device;
  const auto after = pinned.upper_bound(pointer);
  if (after == pinned.begin()) return MemoryKind::pageable;
  const PinnedMemory& memory = std::prev(after)->second;
  return pointer < memory.data.get() + memory.bytes ? MemoryKind::pinned : MemoryKind::pageable;
}

}  // namespace apb::emulation
