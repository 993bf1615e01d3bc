// A whole attention kernel: right at odd sizes against double precision, its counts known, its bugs found.
#include <bit>
#include <cmath>

#include "compare.hpp"
#include "device.hpp"

namespace apb::ptx {
namespace {

using Bits = std::uint16_t;  // of a bfloat

struct Arguments {
  const Bits *q, *k, *v;
  Bits* o;
  float* lse;
  int rows, keys, heads;
  float scale;
};

float widen(Bits bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

class FlashTest : public testing::Test {
 protected:
  static constexpr std::size_t dim = 64;

  std::vector<Bits> numbers(int rows, int heads) {
    std::vector<Bits> result(static_cast<std::size_t>(rows * heads) * dim);
    for (auto& value : result) value = static_cast<Bits>(std::bit_cast<std::uint32_t>(random_.normal()) >> 16);
    return result;
  }

  void run(int rows, int keys, int heads, int bug, std::uint64_t order = 0) {
    q_ = numbers(rows, heads);
    k_ = numbers(keys, heads);
    v_ = numbers(keys, heads);
    const auto lse_count = static_cast<std::size_t>(rows * heads);
    arguments_ = {device_.upload(q_),
                  device_.upload(k_),
                  device_.upload(v_),
                  device_.allocate<Bits>(q_.size()),
                  device_.allocate<float>(lse_count),
                  rows,
                  keys,
                  heads,
                  0.125F * 1.44269504F};
    LaunchOptions options;
    options.block_order_seed = order;
    device_.launch(kernel(bug), {static_cast<unsigned>(rows + 63) / 64, static_cast<unsigned>(heads)}, {128},
                   3 * 64 * dim * 2, options, arguments_);
  }

  const Kernel& kernel(int bug) { return device_.kernel({"flash", "ILi" + std::to_string(bug) + "E"}); }

  /// Attention in double precision: O and log-sum-exp.
  std::pair<std::vector<double>, std::vector<double>> expected() const {
    const auto rows = static_cast<std::size_t>(arguments_.rows), keys = static_cast<std::size_t>(arguments_.keys);
    const auto heads = static_cast<std::size_t>(arguments_.heads);
    std::vector<double> o(q_.size()), lse(rows * heads);
    for (std::size_t head = 0; head < heads; ++head) {
      for (std::size_t row = 0; row < rows; ++row) {
        const auto at = [&](std::size_t i, std::size_t c) { return (i * heads + head) * dim + c; };
        std::vector<double> weights(keys);
        double sum = 0;
        for (std::size_t key = 0; key < keys; ++key) {
          double score = 0;
          for (std::size_t c = 0; c < dim; ++c) score += double{widen(q_[at(row, c)])} * widen(k_[at(key, c)]);
          weights[key] = std::exp(score / 8);
          sum += weights[key];
        }
        for (std::size_t c = 0; c < dim; ++c) {
          for (std::size_t key = 0; key < keys; ++key) o[at(row, c)] += weights[key] / sum * widen(v_[at(key, c)]);
        }
        lse[head * rows + row] = std::log(sum);
      }
    }
    return {o, lse};
  }

  Random random_;
  Device device_{"flash"};
  std::vector<Bits> q_, k_, v_;
  Arguments arguments_{};
};

TEST_F(FlashTest, AgreesWithDoublePrecision) {
  for (const auto& [rows, keys, heads] : {std::array{1, 1, 1}, {64, 64, 1}, {65, 63, 2}, {100, 200, 3}, {7, 129, 1}}) {
    run(rows, keys, heads, 0, static_cast<std::uint64_t>(rows));
    const auto [o, lse] = expected();
    std::vector<float> actual;
    for (const auto bits : device_.download(arguments_.o, q_.size())) actual.push_back(widen(bits));
    EXPECT_TRUE(is_close(actual, o, 2e-2)) << rows << ' ' << keys << ' ' << heads;
    EXPECT_TRUE(is_close(device_.download(arguments_.lse, lse.size()), lse, 2e-4)) << rows << ' ' << keys;
  }
}

TEST_F(FlashTest, GivesTheSameBytesTwice) {
  run(100, 100, 1, 0);
  const auto first = device_.download(arguments_.o, q_.size());
  LaunchOptions options;
  options.block_order_seed = 7;
  device_.launch(kernel(0), {2, 1}, {128}, 3 * 64 * dim * 2, options, arguments_);
  EXPECT_EQ(device_.download(arguments_.o, q_.size()), first);
}

TEST_F(FlashTest, Counts) {
  run(128, 192, 2, 0);
  const auto& counters = device_.counters(kernel(0));
  EXPECT_EQ(counters.blocks, 4U);
  // For each block 3 tiles; for each tile 4 warps; 16 rows x 64 keys x 64 numbers, twice, by 16 x 8 x 16.
  EXPECT_EQ(counters.mma, 4U * 3 * 4 * (8 * 4 + 4 * 8));
  EXPECT_EQ(counters.barriers, 4U * 3 * 4 * 2);
  EXPECT_EQ(counters.ldmatrix.accesses, 4U * 4 * (4 + 3 * (16 + 16)));
  EXPECT_EQ(counters.ldmatrix.extra_wavefronts, 0U);
  EXPECT_EQ(counters.shared_cp_async.extra_wavefronts, 0U);
  EXPECT_EQ(counters.global_cp_async.sectors, counters.global_cp_async.least_sectors);
  EXPECT_EQ(counters.global_cp_async.bytes, 4U * (1 + 3 + 3) * 64 * 128);
  EXPECT_EQ(counters.launches, 1U);
}

TEST_F(FlashTest, FindsItsBugs) {
  const auto fault = [&](int bug) {
    try {
      run(100, 200, 2, bug);
    } catch (const Violation& violation) {
      EXPECT_TRUE(violation.file().ends_with("flash.cu")) << violation.what();
      return violation.fault();
    }
    ADD_FAILURE() << "bug " << bug << " is not found";
    return Fault::trap;
  };
  EXPECT_EQ(fault(1), Fault::race);
  EXPECT_EQ(fault(2), Fault::race);
  EXPECT_EQ(fault(3), Fault::race);
  EXPECT_EQ(fault(4), Fault::out_of_bounds);
}

}  // namespace
}  // namespace apb::ptx
