#include "tasks/random.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace apb {
namespace {

// The values that the algorithm's authors give for this seed: samples are the same on every machine.
TEST(TaskRandom, draws_the_published_numbers) {
  TaskRandom random(1234567);
  for (const std::uint64_t expected : {6457827717110365317U, 3203168211198807973U, 9817491932198370423U,
                                       4593380528125082431U, 16408922859458223821U}) {
    EXPECT_EQ(random.bits(), expected);
  }
}

TEST(TaskRandom, derived_generators_differ_and_leave_the_first_alone) {
  const TaskRandom random(std::random_device{}());
  std::set<std::uint64_t> first;
  for (const char* text : {"", "a", "b", "ab", "ba"}) {
    for (const std::uint64_t number : {0U, 1U, 2U}) {
      first.insert(random.derived(text, number).bits());
      EXPECT_EQ(random.derived(text, number).bits(), random.derived(text, number).bits());
    }
  }
  EXPECT_EQ(first.size(), 15U);
}

// Each ordered pair of five numbers comes in 1/20 of all draws, within six standard deviations.
TEST(TaskRandom, samples_are_even_and_without_repetition) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  TaskRandom random(seed);
  constexpr int draws = 20000;
  std::map<std::vector<std::size_t>, int> pairs;
  for (int i = 0; i < draws; ++i) ++pairs[random.sample(5, 2)];
  ASSERT_EQ(pairs.size(), 20U);
  for (const auto& [pair, times] : pairs) {
    EXPECT_NE(pair[0], pair[1]);
    EXPECT_NEAR(times, draws / 20, 190) << pair[0] << " " << pair[1];
  }
  EXPECT_TRUE(random.sample(3, 0).empty());
  const auto all = random.sample(9, 9);
  EXPECT_EQ(std::set<std::size_t>(all.begin(), all.end()).size(), 9U);
}

}  // namespace
}  // namespace apb
