#include "cpu/peaks.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace apb {
namespace {

TEST(Peaks, AreMeasuredForEachType) {
  for (const DataType type : {DataType::bf16, DataType::f32}) {
    const Peaks peaks = cpu::measure_peaks(2, type, 1 << 20);
    EXPECT_GT(peaks.flops_per_second, 1e6);
    EXPECT_GT(peaks.bytes_per_second, 1e6);
    EXPECT_TRUE(std::isfinite(peaks.flops_per_second) && std::isfinite(peaks.bytes_per_second));
    EXPECT_FALSE(peaks.instructions.empty());
#if defined(__x86_64__)
    EXPECT_GT(peaks.clock_hertz, 1e8);
    EXPECT_LT(peaks.clock_hertz, 1e10);
#endif
  }
  EXPECT_EQ(cpu::measure_peaks(3, DataType::f32, 0).bytes_per_second, 0.0);
}

}  // namespace
}  // namespace apb
