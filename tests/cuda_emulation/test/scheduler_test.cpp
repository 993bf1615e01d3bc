// Streams run in their order, and as late as they may.
#include "standin/scheduler.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace apb::emulation {
namespace {

/// Two streams whose operations write their names down when they run.
struct Written {
  explicit Written(Order order) : scheduler(order) {}

  OperationHandle enqueue(Stream& stream, const std::string& name, std::vector<OperationHandle> after = {}) {
    return scheduler.enqueue(
        stream, name, [this, name] { ran += name; }, std::move(after));
  }

  std::string ran;
  Scheduler scheduler;
  StreamHandle first = scheduler.create_stream(false);
  StreamHandle second = scheduler.create_stream(false);
};

TEST(Scheduler, ImmediateOperationsRunAsTheyAreEnqueued) {
  Written written(Order::immediate);
  written.enqueue(*written.first, "a");
  EXPECT_EQ(written.ran, "a");
}

TEST(Scheduler, LateOperationsRunInOrderAndOnlyWhereTheyAreWaitedFor) {
  Written written(Order::late);
  written.enqueue(*written.first, "a");
  const auto event = written.enqueue(*written.first, "b");
  written.enqueue(*written.first, "c");
  written.enqueue(*written.second, "x");
  EXPECT_EQ(written.ran, "");
  written.scheduler.finish(event);
  EXPECT_EQ(written.ran, "ab");
  written.scheduler.finish(*written.second);
  EXPECT_EQ(written.ran, "abx");
  written.scheduler.finish_all();
  EXPECT_EQ(written.ran, "abxc");
}

TEST(Scheduler, AnOperationRunsAfterThoseItWaitsFor) {
  for (const Order order : {Order::late, Order::contrary}) {
    Written written(order);
    written.enqueue(*written.first, "a");
    const auto event = written.enqueue(*written.first, "b");
    written.enqueue(*written.second, "x", {event});
    const auto back = written.enqueue(*written.second, "y");
    written.enqueue(*written.first, "c", {back});
    written.scheduler.finish(*written.first);
    EXPECT_EQ(written.ran, "abxyc");
  }
}

TEST(Scheduler, ContraryStreamsRunTheNewestFirst) {
  Written written(Order::contrary);
  written.enqueue(*written.first, "a");
  written.enqueue(*written.second, "x");
  written.enqueue(*written.second, "y");
  written.scheduler.finish(*written.first);
  EXPECT_EQ(written.ran, "xya");
}

TEST(Scheduler, TheDefaultStreamAndBlockingStreamsWaitForEachOther) {
  Written written(Order::late);
  const StreamHandle blocking = written.scheduler.create_stream(true);
  written.enqueue(*blocking, "a");
  written.enqueue(*written.first, "x");
  written.enqueue(*written.scheduler.default_stream(), "b");
  written.enqueue(*blocking, "c");
  written.scheduler.finish(*blocking);
  EXPECT_EQ(written.ran, "abc");
  written.enqueue(*blocking, "d");
  written.enqueue(*written.scheduler.default_stream(), "e");
  written.scheduler.finish(*written.scheduler.default_stream());
  EXPECT_EQ(written.ran, "abcde");
}

TEST(Scheduler, AClosedStreamStillRuns) {
  Written written(Order::late);
  written.enqueue(*written.second, "x");
  Scheduler::close(*written.second);
  written.second.reset();
  written.scheduler.create_stream(false);
  written.scheduler.finish_all();
  EXPECT_EQ(written.ran, "x");
}

}  // namespace
}  // namespace apb::emulation
