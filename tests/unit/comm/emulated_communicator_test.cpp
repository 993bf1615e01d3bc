// Ranks as threads that take turns: what they send, what their clocks show, how they end.
#include "comm/emulated_communicator.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <random>
#include <thread>

#include "comm/node_memory.hpp"
#include "cpu/cpu_device.hpp"
#include "error.hpp"

namespace apb {
namespace {

/// Messages of 32-bit integers.
struct Messages {
  Messages(int rows, int count) : numbers(static_cast<std::size_t>(rows * count), -1), messages(rows) {}
  View view() {
    const auto count = static_cast<std::int64_t>(numbers.size()) / messages;
    return {reinterpret_cast<std::byte*>(numbers.data()), DataType::i32, Space::device, messages, count, count};
  }
  std::vector<std::int32_t> numbers;
  std::int64_t messages;
};

class EmulatedRanksTest : public testing::TestWithParam<int> {
 protected:
  std::unique_ptr<Device> device_ = make_cpu_device({});
  std::mt19937 random_{std::random_device{}()};
};

TEST_P(EmulatedRanksTest, AllGather) {
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    for (const int count : {1, 7, 1000}) {
      Messages parts(world.size(), count);
      const auto own = static_cast<std::size_t>(world.rank() * count);
      std::iota(parts.numbers.begin() + static_cast<std::ptrdiff_t>(own),
                parts.numbers.begin() + static_cast<std::ptrdiff_t>(own) + count, world.rank() * count);
      const auto transfer = world.start_all_gather(*device_, parts.view());
      device_->wait_for(transfer);
      transfer->finish();  // once more does nothing
      std::vector<std::int32_t> expected(parts.numbers.size());
      std::iota(expected.begin(), expected.end(), 0);
      EXPECT_EQ(parts.numbers, expected);
      std::fill(parts.numbers.begin(), parts.numbers.end(), -2);  // nobody reads it any longer
    }
    Messages wrong(world.size() + 1, 2);
    EXPECT_THROW(world.start_all_gather(*device_, wrong.view()), std::invalid_argument);
  });
}

TEST_P(EmulatedRanksTest, AllToAll) {
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    const int count = 13;
    Messages send(world.size(), count);
    Messages receive(world.size(), count);
    for (std::size_t i = 0; i < send.numbers.size(); ++i) {
      send.numbers[i] = 100000 * world.rank() + static_cast<std::int32_t>(i);
    }
    device_->wait_for(world.start_all_to_all(*device_, send.view(), receive.view()));
    for (int i = 0; i < world.size() * count; ++i) {
      EXPECT_EQ(receive.numbers[static_cast<std::size_t>(i)], 100000 * (i / count) + world.rank() * count + i % count);
    }
  });
}

TEST_P(EmulatedRanksTest, ShiftsGoAllTheWayAround) {
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    Messages held(1, 9);
    Messages arrives(1, 9);
    std::fill(held.numbers.begin(), held.numbers.end(), world.rank());
    for (int step = 1; step <= world.size(); ++step) {
      device_->wait_for(world.start_shift(*device_, held.view(), arrives.view()));
      held.numbers = arrives.numbers;
      EXPECT_EQ(held.numbers,
                std::vector<std::int32_t>(9, (world.rank() + world.size() - step % world.size()) % world.size()));
    }
  });
}

TEST_P(EmulatedRanksTest, TwoTransfersUnderWayAtATime) {
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    Messages first(world.size(), 1);
    Messages second(world.size(), 1);
    first.numbers[static_cast<std::size_t>(world.rank())] = world.rank();
    second.numbers[static_cast<std::size_t>(world.rank())] = -world.rank();
    const auto one = world.start_all_gather(*device_, first.view());
    { const auto other = world.start_all_gather(*device_, second.view()); }  // finished by being destroyed
    EXPECT_EQ(world.max(5), 5);
    one->finish();
    for (int rank = 0; rank < world.size(); ++rank) {
      EXPECT_EQ(first.numbers[static_cast<std::size_t>(rank)], rank);
      EXPECT_EQ(second.numbers[static_cast<std::size_t>(rank)], -rank);
    }
  });
}

TEST_P(EmulatedRanksTest, HostCollectives) {
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    const int root = world.size() - 1;
    std::string text = world.rank() == root ? "the last rank's text" : "other";
    broadcast_text(world, text, root);
    EXPECT_EQ(text, "the last rank's text");
    const auto texts = gather_texts(world, std::string(static_cast<std::size_t>(world.rank()), 'x'));
    ASSERT_EQ(texts.size(), world.rank() == 0 ? static_cast<std::size_t>(world.size()) : 0U);
    for (std::size_t rank = 0; rank < texts.size(); ++rank) EXPECT_EQ(texts[rank].size(), rank);
    EXPECT_EQ(world.max(world.rank() * 3), (world.size() - 1) * 3);
  });
}

TEST_P(EmulatedRanksTest, MemoryOfANodeIsOne) {
  std::vector<std::byte*> seen;
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    const auto node = world.node_memory();
    if (world.size() == 1) {
      EXPECT_EQ(node, nullptr);
      return;
    }
    EXPECT_EQ(node->size(), world.size());
    EXPECT_EQ(node->rank(), world.rank());
    const Buffer buffer = node->allocate(1000, 1000);
    seen.push_back(buffer.data());
    buffer.data()[world.rank()] = std::byte{7};
    world.max(0);
    for (int rank = 0; rank < world.size(); ++rank) EXPECT_EQ(buffer.data()[rank], std::byte{7});
    EXPECT_THROW(static_cast<void>(node->allocate(1000, world.rank() == 0 ? 999 : 1000)), Error);
  });
  for (const auto* data : seen) EXPECT_EQ(data, seen.front());
}

TEST_P(EmulatedRanksTest, OneRunsAtATime) {
  int running = 0;
  run_emulated_ranks(GetParam(), [&](Communicator& world) {
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(++running, 1);
      std::this_thread::yield();
      EXPECT_EQ(--running, 0);
      world.max(0);
    }
  });
}

/// Step s takes rank r (r + s) % ranks + 1 seconds. A maximum is waited for by all, so the critical path is that of the
/// slowest in each step; what a rank is busy for is its own.
TEST_P(EmulatedRanksTest, ClocksShowTheCriticalPathAndTheOwnWork) {
  const int ranks = GetParam();
  double time = 5.0;
  const auto body = [&](Communicator& world) {
    double own = 0.0;
    for (int step = 0; step < ranks; ++step) {
      EXPECT_EQ(world.busy_seconds(), own);
      EXPECT_EQ(world.seconds(), step * ranks);
      const int seconds = (world.rank() + step) % ranks + 1;
      time += seconds;
      own += seconds;
      world.max(0);
    }
    EXPECT_EQ(world.busy_seconds(), own);
    EXPECT_EQ(world.seconds(), ranks * ranks);
  };
  run_emulated_ranks(ranks, body, [&] { return time; });
}

TEST_P(EmulatedRanksTest, WorkDuringATransferHidesWaiting) {
  double time = 0.0;
  const auto body = [&](Communicator& world) {
    Messages parts(world.size(), 1);
    if (world.rank() == 0) time += 10.0;
    const auto transfer = world.start_all_gather(*device_, parts.view());
    time += 4.0;
    transfer->finish();
    EXPECT_EQ(world.seconds(), world.rank() == 0 ? 14.0 : 10.0);
    EXPECT_EQ(world.busy_seconds(), world.rank() == 0 ? 14.0 : 4.0);
  };
  run_emulated_ranks(GetParam(), body, [&] { return time; });
}

TEST_P(EmulatedRanksTest, ARankWaitsForThoseThatItHearsFromAlone) {
  const int ranks = GetParam();
  double time = 0.0;
  const auto body = [&](Communicator& world) {
    const int late = ranks / 2;
    if (world.rank() == late) time += 3.0;
    Messages held(1, 1);
    Messages arrives(1, 1);
    world.start_shift(*device_, held.view(), arrives.view())->finish();
    const int apart = std::min((world.rank() - late + ranks) % ranks, (late - world.rank() + ranks) % ranks);
    EXPECT_EQ(world.seconds(), apart <= 1 ? 3.0 : 0.0);
    std::int32_t value = 0;
    world.broadcast(std::as_writable_bytes(std::span(&value, 1)), late);
    EXPECT_EQ(world.seconds(), 3.0);
  };
  run_emulated_ranks(ranks, body, [&] { return time; });
}

TEST_P(EmulatedRanksTest, AFailureOfOneEndsAll) {
  const int ranks = GetParam();
  const int failing = std::uniform_int_distribution(0, ranks - 1)(random_);
  const int steps = std::uniform_int_distribution(0, 5)(random_);
  std::atomic<int> in_body = 0;
  const auto body = [&](Communicator& world) {
    struct Count {
      explicit Count(std::atomic<int>& number) : count(number) { ++count; }
      ~Count() { --count; }
      std::atomic<int>& count;
    } const until_end(in_body);
    Messages parts(world.size(), 3);
    for (int step = 0; step < 10; ++step) {
      const auto transfer = world.start_all_gather(*device_, parts.view());
      if (step == steps && world.rank() == failing) fail("rank {} has had enough", failing);
      transfer->finish();
      world.max(0);
    }
  };
  try {
    run_emulated_ranks(ranks, body);
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), "rank " + std::to_string(failing) + " has had enough");
  }
  EXPECT_EQ(in_body, 0);
}

TEST_P(EmulatedRanksTest, AFailureOfOneIsADecisionOfAll) {
  const int ranks = GetParam();
  for (int failing = 0; failing < ranks; ++failing) {
    std::atomic<int> heard = 0;
    run_emulated_ranks(ranks, [&](Communicator& world) {
      try {
        agree(world, [&] {
          if (world.rank() >= failing) fail_usage("rank {} cannot", world.rank());
        });
      } catch (const CommonError& error) {
        if (error.what() == "rank " + std::to_string(failing) + " cannot") ++heard;
      }
      EXPECT_EQ(world.max(world.rank()), ranks - 1);
    });
    EXPECT_EQ(heard, ranks);
  }
}

TEST_P(EmulatedRanksTest, RanksThatDisagreeEnd) {
  if (GetParam() == 1) return;
  EXPECT_THROW(run_emulated_ranks(GetParam(),
                                  [&](Communicator& world) {
                                    if (world.rank() == 0) return;
                                    world.max(0);
                                  }),
               std::logic_error);
  EXPECT_THROW(run_emulated_ranks(GetParam(),
                                  [&](Communicator& world) {
                                    if (world.rank() == 0) world.max(0);
                                    world.gather({});
                                  }),
               std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Ranks, EmulatedRanksTest, testing::Values(1, 2, 3, 8, 64));

}  // namespace
}  // namespace apb
