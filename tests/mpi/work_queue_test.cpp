// A counter that several ranks take from, and groups of ranks.
#include "comm/work_queue.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <vector>

#include "comm/placement.hpp"
#include "expect_error.hpp"

namespace apb {
namespace {

using Clock = std::chrono::steady_clock;

class WorkQueueTest : public testing::Test {
 protected:
  /// Computes for so long, and lets others take numbers meanwhile.
  static void compute(std::chrono::microseconds duration, WorkQueue& helped) {
    const auto end = Clock::now() + duration;
    while (Clock::now() < end) helped.progress();
  }

  MpiCommunicator world_{MPI_COMM_WORLD};
  std::mt19937_64 random_{std::random_device{}()};
};

TEST_F(WorkQueueTest, EveryNumberIsTakenOnceByGroupsOfAnySize) {
  for (int ranks = 1; ranks <= world_.size(); ++ranks) {
    if (world_.size() % ranks != 0) continue;
    const Placement placement(world_, ranks);
    WorkQueue queue(world_, placement.group().rank() == 0);
    constexpr std::int64_t documents = 400;
    std::vector<std::uint8_t> taken(documents, 0);
    std::int64_t most_done = 0;
    while (queue.takers() > 0) {
      const auto number = queue.take();
      ASSERT_TRUE(number);
      if (*number >= documents) break;
      ++taken[static_cast<std::size_t>(*number)];
      compute(std::chrono::microseconds(random_() % 200), queue);
      most_done = std::max(most_done, queue.add_done(1));
    }
    const auto all = world_.gather(std::as_bytes(std::span(taken)));
    EXPECT_EQ(world_.max(static_cast<int>(most_done)), documents);
    if (world_.rank() != 0) continue;
    std::vector<int> times(documents, 0);
    for (std::size_t i = 0; i < all.size(); ++i) times[i % documents] += static_cast<int>(all[i]);
    EXPECT_EQ(times, std::vector<int>(documents, 1));
  }
}

TEST_F(WorkQueueTest, AllHearThatOneStops) {
  WorkQueue queue(world_, true);
  const int stopping = world_.size() - 1;
  world_.max(0);
  if (world_.rank() == stopping) queue.stop();
  while (!queue.stopped()) queue.progress();
  EXPECT_FALSE(queue.take());
}

TEST_F(WorkQueueTest, PlacementPutsNeighboursIntoGroups) {
  for (int ranks = 1; ranks <= world_.size(); ++ranks) {
    if (world_.size() % ranks != 0) {
      expect_error([&] { Placement(world_, ranks); },
                   {"--ranks-per-document " + std::to_string(ranks), "does not divide"}, ExitCode::wrong_usage);
      continue;
    }
    const Placement placement(world_, ranks);
    EXPECT_EQ(placement.group().size(), ranks);
    EXPECT_EQ(placement.groups(), world_.size() / ranks);
    EXPECT_EQ(placement.group_number(), world_.rank() / ranks);
    EXPECT_EQ(placement.group().rank(), world_.rank() % ranks);
    EXPECT_EQ(placement.group().max(world_.rank()), world_.rank() / ranks * ranks + ranks - 1);
  }
  EXPECT_EQ(Placement(world_, 0).groups(), 1);
}

}  // namespace
}  // namespace apb
