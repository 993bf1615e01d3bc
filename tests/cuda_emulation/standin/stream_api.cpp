// The CUDA runtime's functions about streams and events.
#include <chrono>
#include <memory>
#include <utility>

#include "runtime.hpp"

using namespace apb::emulation;

namespace {

/// Runs `body(runtime, stream)`; an error for a stream that does not exist.
template <typename Body>
cudaError_t with_stream(cudaStream_t handle, const Body& body) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    Stream* const stream = runtime.find(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : body(runtime, *stream);
  });
}

template <typename Body>
cudaError_t with_event(cudaEvent_t handle, const Body& body) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    Event* const event = runtime.find(handle);
    return event == nullptr ? cudaErrorInvalidResourceHandle : body(runtime, *event);
  });
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int /*priority*/) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    const StreamHandle stream = runtime.scheduler.create_stream((flags & cudaStreamNonBlocking) == 0);
    runtime.streams.emplace(stream.get(), stream);
    *handle = reinterpret_cast<cudaStream_t>(stream.get());
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return with_stream(handle, [](Runtime& runtime, Stream& stream) {
    Scheduler::close(stream);
    runtime.streams.erase(&stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return with_stream(handle, [](Runtime& runtime, Stream& stream) {
    ++runtime.counts.host_waits;
    runtime.scheduler.finish(stream);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    ++runtime.counts.host_waits;
    runtime.scheduler.finish_all();
    return cudaSuccess;
  });
}

// Work is never done when first asked for, and is by the next time: that is as late as a poll allows.
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return with_stream(handle, [](Runtime& runtime, Stream& stream) {
    if (Scheduler::idle(stream)) return cudaSuccess;
    ++runtime.counts.host_waits;
    runtime.scheduler.finish(stream);
    return cudaErrorNotReady;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned /*flags*/) {
  return with_stream(handle, [=](Runtime& runtime, Stream& /*stream*/) {
    const Event* const event = runtime.find(event_handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->recorded && !runtime.settings.forget_stream_waits)
      runtime.enqueue(handle, "wait for an event", [] {}, {event->recorded});
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return with_stream(handle, [=](Runtime& runtime, Stream& /*stream*/) {
    runtime.enqueue(handle, "host function", [=] { function(data); });
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    auto event = std::make_unique<Event>();
    event->timed = (flags & cudaEventDisableTiming) == 0;
    *handle = reinterpret_cast<cudaEvent_t>(event.get());
    runtime.events.emplace(*handle, std::move(event));
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return with_event(handle, [](Runtime& runtime, const Event& event) {
    runtime.events.erase(&event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  return with_event(handle, [=](Runtime& runtime, Event& event) {
    if (runtime.find(stream) == nullptr) return cudaErrorInvalidResourceHandle;
    event.recorded = runtime.enqueue(stream, "record an event", [] {});
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return with_event(handle, [](Runtime& runtime, const Event& event) {
    ++runtime.counts.host_waits;
    if (event.recorded) runtime.scheduler.finish(event.recorded);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return with_event(handle, [](Runtime& runtime, const Event& event) {
    if (!event.recorded || event.recorded->done) return cudaSuccess;
    ++runtime.counts.host_waits;
    runtime.scheduler.finish(event.recorded);
    return cudaErrorNotReady;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start_handle, cudaEvent_t end_handle) {
  Runtime& runtime = Runtime::instance();
  return runtime.call([&] {
    const Event* const start = runtime.find(start_handle);
    const Event* const end = runtime.find(end_handle);
    if (start == nullptr || end == nullptr || !start->timed || !end->timed || !start->recorded || !end->recorded) {
      return cudaErrorInvalidResourceHandle;
    }
    if (!start->recorded->done || !end->recorded->done) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(end->recorded->done_at - start->recorded->done_at).count();
    return cudaSuccess;
  });
}
}
