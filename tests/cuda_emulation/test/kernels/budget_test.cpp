// What attention would do on a GPU, counted while it runs emulated.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"
#include "standin/runtime.hpp"

namespace apb::cuda {
namespace {

/// Of all kernels that were launched since the last reset.
std::uint64_t mma_issued() {
  std::uint64_t mma = 0;
  for (const auto& [name, counters] : emulation::Runtime::instance().machine.counters()) mma += counters.mma;
  return mma;
}

/// mma.m16n8k16 that causal attention of `rows` rows to as many keys cannot do without, a head: tiles of 16 rows times
/// 8 keys (Q K^T) and 16 rows times 16 keys (P V) in which a row sees a key.
std::uint64_t least_mma(std::uint64_t rows, std::uint64_t head_dim) {
  std::uint64_t mma = 0;
  for (std::uint64_t first = 0; first < rows; first += 16) {
    const std::uint64_t keys = std::min(rows, first + 16);  // that the last row sees
    mma += (keys + 7) / 8 * (head_dim / 16) + (keys + 15) / 16 * (head_dim / 8);
  }
  return mma;
}

class BudgetTest : public testing::TestWithParam<int> {
 protected:
  /// Causal attention of one head, rows x rows.
  void attend(std::int64_t rows) {
    const HeadShape shape{.heads = 1, .kv_heads = 1, .head_dim = GetParam()};
    Random random;
    const DeviceMatrix query(DataType::bf16, rows, shape.head_dim, shape.head_dim,
                             random.numbers(rows * shape.head_dim));
    const DeviceMatrix slot(DataType::bf16, 2 * rows, shape.head_dim, shape.head_dim,
                            random.numbers(2 * rows * shape.head_dim));
    const DeviceMatrix output(DataType::bf16, rows, shape.head_dim);
    const DeviceBytes workspace(attention_workspace(multiprocessors(), shape));
    AttentionArguments arguments;
    arguments.shape = shape;
    arguments.query = query.view();
    arguments.causal = {{slot.view().data, static_cast<int>(rows)}, static_cast<int>(rows)};
    arguments.output = output.view();
    emulation::Runtime::instance().machine.reset_counters();
    check(attention(nullptr, arguments, multiprocessors(), {workspace.data(), workspace.bytes()}));
    check(cudaDeviceSynchronize());
  }
};

INSTANTIATE_TEST_SUITE_P(HeadDims, BudgetTest, testing::Values(64, 128));

TEST_P(BudgetTest, CausalAttentionIssuesHardlyMoreMmaThanItMust) {
  constexpr std::int64_t rows = 4096;
  attend(rows);
  const auto least = static_cast<double>(least_mma(rows, static_cast<std::uint64_t>(GetParam())));
  const auto issued = static_cast<double>(mma_issued());
  RecordProperty("mma", std::to_string(issued / least));
  EXPECT_GE(issued, least);
  EXPECT_LE(issued, 1.10 * least);
}

TEST_P(BudgetTest, TilesAreLoadedWithoutBankConflictsAndInWholeSectors) {
  attend(320);
  for (const auto& [name, counters] : emulation::Runtime::instance().machine.counters()) {
    if (counters.mma == 0) continue;
    EXPECT_GT(counters.ldmatrix.accesses, 0U);
    EXPECT_EQ(counters.ldmatrix.extra_wavefronts, 0U) << name;
    EXPECT_GT(counters.shared_cp_async.accesses, 0U);
    EXPECT_EQ(counters.shared_cp_async.extra_wavefronts, 0U) << name;
    EXPECT_LE(100 * counters.global_cp_async.sectors, 105 * counters.global_cp_async.least_sectors) << name;
    EXPECT_LE(100 * counters.global_store.sectors, 105 * counters.global_store.least_sectors) << name;
    EXPECT_LE(100 * counters.global_load.sectors, 105 * counters.global_load.least_sectors) << name;
  }
}

}  // namespace
}  // namespace apb::cuda
