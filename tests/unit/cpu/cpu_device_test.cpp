// The CPU device itself: memory, time, and what it refuses.
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "device/transfer.hpp"
#include "error.hpp"

namespace apb {
namespace {

std::unique_ptr<Device> float_device() { return make_cpu_device({.threads = 2, .compute_type = DataType::f32}); }

/// What `action` says when it refuses its arguments.
template <typename Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing";
}

TEST(CpuDevice, DescribesItself) {
  const auto device = make_cpu_device({.threads = 2, .compute_type = DataType::bf16});
  EXPECT_NE(device->description().find(", 2 threads, bf16, "), std::string::npos) << device->description();
  EXPECT_EQ(device->compute_type(), DataType::bf16);
  EXPECT_EQ(device->tile(), 32);
  EXPECT_EQ(device->slot_bytes(64, {.heads = 6, .kv_heads = 2, .head_dim = 16}), 2U * 2 * 64 * 16 * 2);
}

TEST(CpuDevice, RefusesWrongOptions) {
  EXPECT_THROW(make_cpu_device({.threads = 0, .compute_type = DataType::f32}), std::invalid_argument);
  EXPECT_THROW(make_cpu_device({.threads = 1, .compute_type = DataType::f16}), std::invalid_argument);
}

TEST(CpuDevice, AllocatesAlignedDeviceMemory) {
  const auto device = float_device();
  for (const std::size_t bytes : {1U, 63U, 1000U}) {
    const Buffer buffer = device->allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0U);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(buffer.view(DataType::bf16, 0, 0).space, Space::device);
  }
}

TEST(CpuDevice, SaysHowMuchMemoryWasMissing) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer ends the program instead";
#endif
  try {
    float_device()->allocate(std::size_t{1} << 62U);
    FAIL() << "allocated 4 EiB";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::unusable_input);
    EXPECT_NE(std::string(error.what()).find("4294967296.0 GiB"), std::string::npos) << error.what();
  }
}

TEST(CpuDevice, CountsTimeToThePhaseOfTheLastMark) {
  const auto device = float_device();
  const auto total = [](const PhaseSeconds& seconds) { return std::accumulate(seconds.begin(), seconds.end(), 0.0); };
  const auto seconds_of = [](const PhaseSeconds& seconds, Phase phase) {
    return seconds[static_cast<std::size_t>(phase)];
  };
  const PhaseSeconds before = device->take_phase_seconds();
  EXPECT_GT(seconds_of(before, Phase::other), 0.0);
  EXPECT_EQ(seconds_of(before, Phase::other), total(before));

  device->mark(Phase::attention);
  device->mark(Phase::head);
  const PhaseSeconds seconds = device->take_phase_seconds();
  EXPECT_GT(seconds_of(seconds, Phase::attention), 0.0);
  EXPECT_GT(seconds_of(seconds, Phase::head), 0.0);
  EXPECT_EQ(seconds_of(seconds, Phase::embed), 0.0);

  const PhaseSeconds after = device->take_phase_seconds();
  EXPECT_EQ(seconds_of(after, Phase::head), total(after));
}

TEST(CpuDevice, FinishesTransfersAtOnce) {
  struct CountingTransfer : Transfer {
    void finish() override { ++finished; }
    int finished = 0;
  };
  const auto transfer = std::make_shared<CountingTransfer>();
  float_device()->wait_for(transfer);
  EXPECT_EQ(transfer->finished, 1);
}

TEST(CpuDevice, NamesTheOperationAndTheWrongShape) {
  const auto device = float_device();
  const Matrix x = random_matrix(*device, DataType::f32, 3, 8, 1.0, 1);
  const Matrix weight = random_matrix(*device, DataType::f32, 1, 7, 1.0, 1);
  EXPECT_EQ(refusal([&] { device->rms_norm(x.view, weight.view, 1e-5F, x.view); }),
            "rms_norm: weight is [1, 7] where [1, 8] is wanted");
}

TEST(CpuDevice, RefusesWrongTypes) {
  const auto device = float_device();
  const Matrix narrow = random_matrix(*device, DataType::bf16, 3, 8, 1.0, 1);
  EXPECT_EQ(refusal([&] { device->silu(narrow.view); }), "silu: x cannot be bf16");
  const Matrix numbers = poisoned(*device, DataType::i32, 3, 8);
  EXPECT_EQ(refusal([&] { device->upload(host_view(static_cast<const float*>(nullptr), 3, 8), numbers.view); }),
            "upload: source has no memory or rows that overlap (stride 8)");
  const std::vector<float> source(24);
  EXPECT_EQ(refusal([&] { device->upload(host_view(source.data(), 3, 8), numbers.view); }),
            "upload: cannot turn f32 into i32");
}

TEST(CpuDevice, RefusesHostMemoryInOperations) {
  const auto device = float_device();
  std::vector<float> values(24);
  const View host{reinterpret_cast<std::byte*>(values.data()), DataType::f32, Space::host, 3, 8, 8};
  EXPECT_EQ(refusal([&] { device->silu(host); }), "silu: x must be in device memory");
}

TEST(CpuDevice, RefusesSlotsOfBrokenTiles) {
  const auto device = float_device();
  const HeadShape shape{2, 1, 8};
  const Matrix query = random_matrix(*device, DataType::f32, 3, 16, 1.0, 1);
  const Matrix output = poisoned(*device, DataType::f32, 3, 16);
  const Buffer memory = device->allocate(device->slot_bytes(64, shape));
  const auto attend = [&](const SlotRange& causal) {
    device->attention({.shape = shape,
                       .query = query.view,
                       .visible = {},
                       .causal = causal,
                       .causal_before = 0,
                       .output = output.view,
                       .log_sum_exp = {}});
  };
  EXPECT_EQ(refusal([&] {
              attend({{memory.data(), 33}, 3});
            }),
            "attention: a slot's capacity of 33 is not a multiple of 32");
  EXPECT_EQ(refusal([&] { attend({{memory.data(), 32}, 33}); }), "attention: tokens 0..33 are outside a slot of 32");
  EXPECT_EQ(refusal([&] { attend({{nullptr, 32}, 3}); }), "attention: a slot has no memory");
}

TEST(CpuDevice, DoesNothingForNoRows) {
  const auto device = float_device();
  const HeadShape shape{2, 1, 8};
  const Matrix x = random_matrix(*device, DataType::f32, 3, 8, 1.0, 1);
  const View none = x.view.row_range(3, 0);
  EXPECT_NO_THROW(device->silu(none));
  EXPECT_NO_THROW(device->rms_norm(none, x.view.row_range(0, 1), 1e-5F, {}));
  EXPECT_NO_THROW(device->rotate_and_store(shape, {}, {}, x.view, 0, {}, {}, 0));
  EXPECT_NO_THROW(device->argmax({}, {}));
}

}  // namespace
}  // namespace apb
