// Skips the tests of this folder where there is no GPU, real or emulated.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

namespace {

class NeedGpu : public testing::Environment {
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU here";
  }
};

[[maybe_unused]] const auto* const environment = testing::AddGlobalTestEnvironment(new NeedGpu);

}  // namespace
