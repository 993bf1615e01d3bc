// Streams and events: queues of operations that run when somebody must wait for them, not before.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace apb::emulation {

/// When operations run.
enum class Order {
  immediate,  // as they are enqueued
  late,       // when the host waits for them, and only those that are waited for
  contrary,   // when the host waits for anything; operations of the newest stream first wherever no event forbids it
};

class Stream;

/// One entry of a stream, run after all that came before it there and after `after`.
struct Operation {
  std::string name;
  std::function<void()> run;
  std::vector<std::shared_ptr<Operation>> after;
  Stream* stream = nullptr;  // that holds it until it has run
  bool done = false;
  std::chrono::steady_clock::time_point done_at;
};
using OperationHandle = std::shared_ptr<Operation>;

class Stream {
 public:
  /// A blocking stream waits for the default stream's operations, and the default stream for its.
  explicit Stream(bool blocking) : blocking_(blocking) {}

 private:
  friend class Scheduler;
  bool blocking_;
  bool open_ = true;
  std::deque<OperationHandle> queue_;  // not yet run, in order
  OperationHandle last_;               // enqueued last, run or not
};
using StreamHandle = std::shared_ptr<Stream>;

/// All streams of a device. Not safe for threads: the caller locks.
class Scheduler {
 public:
  explicit Scheduler(Order order);
  /// From here on; everything has run.
  void set_order(Order order);

  const StreamHandle& default_stream() const { return streams_.front(); }
  StreamHandle create_stream(bool blocking);
  /// What is still in the stream runs when something needs it.
  static void close(Stream& stream) { stream.open_ = false; }

  /// The operation that `run` became: done when it has run.
  OperationHandle enqueue(Stream& stream, std::string name, std::function<void()> run,
                          std::vector<OperationHandle> after = {});

  /// Runs what the operation needs, and it.
  void finish(const OperationHandle& operation);
  void finish(Stream& stream);
  void finish_all();
  static bool idle(const Stream& stream) { return stream.queue_.empty(); }

 private:
  void run_head(Stream& stream);
  void finish_late(Operation& operation);
  void finish_contrary(const Operation& operation);
  void forget_closed_streams();

  Order order_;
  std::vector<StreamHandle> streams_;
  bool running_ = false;
};

}  // namespace apb::emulation
