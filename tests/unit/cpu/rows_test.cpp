// Loops over several threads.
#include "cpu/rows.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace apb::cpu {
namespace {

TEST(ForEachIndex, ThrowsWhatAThreadThrows) {
  for (const int threads : {1, 2, 3}) {
    std::atomic<int> reached = 0;
    const auto body = [&](std::int64_t index) {
      ++reached;
      if (index == 17) throw std::runtime_error("seventeen");
    };
    EXPECT_THROW(for_each_index(threads, 40, body), std::runtime_error);
    EXPECT_EQ(reached, 40);
    reached = 0;
    EXPECT_NO_THROW(for_each_index(threads, 17, body));
    EXPECT_EQ(reached, 17);
  }
}

}  // namespace
}  // namespace apb::cpu
