// Every kind of bug is found, at its line and with both threads; the kernels without the bug are not reported.
#include <ostream>
#include <string>
#include <vector>

#include "device.hpp"

namespace apb::ptx {
namespace {

struct Bug {
  std::string name;
  Fault fault;
  std::vector<std::string> threads;  // the message names them
  unsigned blocks = 1, threads_in_block = 64;
  bool out_written = false;
};

std::ostream& operator<<(std::ostream& stream, const Bug& bug) { return stream << bug.name; }

std::vector<Bug> bugs() {
  const auto thread = [](int t, int b = 0) {
    return "thread (" + std::to_string(t) + ",0,0) of block (" + std::to_string(b) + ",0,0)";
  };
  return {
      {"read_before_write", Fault::uninitialised_memory, {thread(0)}},
      {"no_barrier_after_write", Fault::race, {thread(32), thread(0)}},
      {"no_barrier_before_write", Fault::race, {thread(32), thread(0)}},
      {"no_syncwarp", Fault::race, {thread(0), thread(1)}, 1, 32},
      {"partial_syncwarp", Fault::race, {thread(0), thread(16)}, 1, 32},
      {"no_copy_wait", Fault::race, {thread(0), "cp.async"}, 1, 32},
      {"no_barrier_after_copy", Fault::uninitialised_memory, {thread(0)}},
      {"no_barrier_before_copy", Fault::race, {thread(32), thread(0)}},
      {"copy_group_too_late", Fault::race, {thread(0), "cp.async"}, 1, 32},
      {"uninitialised_accumulator", Fault::uninitialised_register, {thread(1), "register sum"}},
      {"unwritten_shared", Fault::uninitialised_memory, {thread(58)}},
      {"unwritten_global", Fault::uninitialised_memory, {thread(7)}},
      {"unwritten_local", Fault::uninitialised_memory, {thread(15)}},
      {"store_past_end", Fault::out_of_bounds, {thread(255)}, 1, 256},
      {"load_before_start", Fault::out_of_bounds, {thread(0)}},
      {"shared_past_end", Fault::out_of_bounds, {thread(63)}},
      {"misaligned_global", Fault::misaligned, {thread(0), "multiple of 16"}},
      {"misaligned_shared", Fault::misaligned, {thread(0), "multiple of 8"}},
      {"divergent_barrier", Fault::divergent_barrier, {"lanes 0-2,4-31", "lanes 3 are not"}},
      {"two_barriers", Fault::divergent_barrier, {thread(32), thread(0)}},
      {"barrier_count", Fault::deadlock, {thread(0), "barrier 1"}},
      {"return_before_ballot", Fault::missing_lanes, {thread(0), "lanes 30-31 have exited"}, 1, 32},
      {"shuffle_in_branch", Fault::missing_lanes, {thread(0), "lanes 0,2-31"}, 1, 32},
      {"lane_not_in_mask", Fault::missing_lanes, {thread(31), "0x7fffffff"}, 1, 32},
      {"mma_in_branch", Fault::missing_lanes, {thread(0), "only 0-8,10-31"}, 1, 32},
      {"counter_across_blocks", Fault::race, {thread(0, 1), thread(0, 0)}, 3, 32, true},
      {"read_of_other_block", Fault::race, {thread(0, 1), thread(0, 0)}, 3, 32},
      {"write_after_other_block_read", Fault::race, {thread(0, 2), "several blocks"}, 3, 32},
      {"same_cell_two_blocks", Fault::race, {thread(0, 1), thread(0, 0)}, 3, 32},
      {"global_without_barrier", Fault::uninitialised_memory, {thread(0)}},
      {"last_block", Fault::race, {thread(0, 2), thread(0, 0)}, 3, 32, true},
      {"atomic_and_plain", Fault::race, {thread(0), thread(31)}},
      {"two_values_one_place", Fault::race, {thread(1), thread(0)}, 1, 32},
      {"failed_assertion", Fault::trap, {thread(0)}},
      {"endless_loop", Fault::endless, {thread(0)}},
  };
}

/// The line of bugs.cu that ends in the mark of a bug.
int marked_line(const std::string& name) {
  std::ifstream file(std::string(APB_KERNEL_FOLDER) + "/bugs.cu");
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.ends_with("// BUG " + name)) return number;
  }
  return -1;
}

constexpr std::size_t cells = 256;

void run(Device& device, const Bug& bug, bool right) {
  std::vector<int> values(4 * cells);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int>(i % 2 == 0 ? i + 4 : i) % 64;
  values[0] = 4;
  values[1] = 0;
  values[2] = 5;
  int* data = device.upload(values);
  int* out = device.allocate<int>(cells);
  if (bug.out_written) {
    std::memset(out, 0, cells * sizeof(int));
    device.machine().memory().mark_written(out, cells * sizeof(int));
  }
  LaunchOptions options;
  options.instruction_limit = 500'000;
  const auto name = std::to_string(bug.name.size()) + bug.name + (right ? "ILb1E" : "ILb0E");
  device.launch(device.kernel({name}), {bug.blocks}, {bug.threads_in_block}, bug.threads_in_block * sizeof(int),
                options, data, out);
}

class BugTest : public testing::TestWithParam<Bug> {};

TEST_P(BugTest, IsFoundAtItsLineWithItsThreads) {
  const Bug& bug = GetParam();
  Device device("bugs");
  try {
    run(device, bug, false);
    FAIL() << "not found";
  } catch (const Violation& found) {
    const std::string message = found.what();
    EXPECT_EQ(found.fault(), bug.fault) << message;
    EXPECT_EQ(found.line(), marked_line(bug.name)) << message;
    EXPECT_TRUE(found.file().ends_with("bugs.cu")) << message;
    EXPECT_NE(found.kernel().find(bug.name), std::string::npos) << message;
    for (const auto& part : bug.threads) EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
  }
}

TEST_P(BugTest, IsNotReportedWhereThereIsNone) {
  Device device("bugs");
  EXPECT_NO_THROW(run(device, GetParam(), true));
}

INSTANTIATE_TEST_SUITE_P(All, BugTest, testing::ValuesIn(bugs()),
                         [](const testing::TestParamInfo<Bug>& bug) { return bug.param.name; });

}  // namespace
}  // namespace apb::ptx
