#include "scheduler.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace apb::emulation {
namespace {

bool ready(const Operation& operation) {
  return std::all_of(operation.after.begin(), operation.after.end(), [](const auto& other) { return other->done; });
}

}  // namespace

Scheduler::Scheduler(Order order) : order_(order) { create_stream(true); }

void Scheduler::set_order(Order order) {
  finish_all();
  order_ = order;
}

StreamHandle Scheduler::create_stream(bool blocking) {
  forget_closed_streams();
  streams_.push_back(std::make_shared<Stream>(blocking));
  return streams_.back();
}

void Scheduler::forget_closed_streams() {
  std::erase_if(streams_, [](const StreamHandle& stream) { return !stream->open_ && stream->queue_.empty(); });
}

OperationHandle Scheduler::enqueue(Stream& stream, std::string name, std::function<void()> run,
                                   std::vector<OperationHandle> after) {
  if (running_) throw std::logic_error("an operation of a stream enqueued another one: " + name);
  if (&stream == default_stream().get()) {
    for (const auto& other : streams_) {
      if (other->blocking_ && other->last_) after.push_back(other->last_);
    }
  } else if (stream.blocking_ && default_stream()->last_) {
    after.push_back(default_stream()->last_);
  }
  std::erase_if(after, [](const auto& other) { return other->done; });
  auto operation = std::make_shared<Operation>();
  operation->name = std::move(name);
  operation->run = std::move(run);
  operation->after = std::move(after);
  operation->stream = &stream;
  stream.queue_.push_back(operation);
  stream.last_ = operation;
  if (order_ == Order::immediate) finish(operation);
  return operation;
}

void Scheduler::run_head(Stream& stream) {
  const OperationHandle head = stream.queue_.front();
  stream.queue_.pop_front();
  running_ = true;
  head->run();
  running_ = false;
  head->run = nullptr;
  head->after.clear();
  head->done = true;
  head->done_at = std::chrono::steady_clock::now();
}

void Scheduler::finish(const OperationHandle& operation) {
  if (operation->done) return;
  if (order_ == Order::contrary) {
    finish_contrary(*operation);
  } else {
    finish_late(*operation);
  }
}

void Scheduler::finish_late(Operation& operation) {
  Stream& stream = *operation.stream;
  while (!operation.done) {
    const OperationHandle head = stream.queue_.front();
    for (const auto& other : head->after) {
      if (!other->done) finish_late(*other);
    }
    run_head(stream);
  }
}

void Scheduler::finish_contrary(const Operation& operation) {
  while (!operation.done) {
    const auto next = std::find_if(streams_.rbegin(), streams_.rend(), [](const StreamHandle& stream) {
      return !stream->queue_.empty() && ready(*stream->queue_.front());
    });
    if (next == streams_.rend()) throw std::logic_error("no stream can go on: " + operation.name);
    run_head(**next);
  }
}

void Scheduler::finish(Stream& stream) {
  if (!stream.queue_.empty()) finish(OperationHandle(stream.queue_.back()));
}

void Scheduler::finish_all() {
  for (std::size_t i = 0; i < streams_.size(); ++i) finish(*streams_[i]);
  forget_closed_streams();
}

}  // namespace apb::emulation
