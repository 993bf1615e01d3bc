// The CUDA device itself: memory, uploads, matrix products, time, and what it refuses.
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>

#include "compare.hpp"
#include "cuda/cuda_device.hpp"
#include "device_memory.hpp"
#include "error.hpp"
#include "expect_error.hpp"

namespace apb::cuda {
namespace {

/// Rows in host memory, `stride` elements from one to the next.
struct HostMatrix {
  std::vector<std::byte> memory;
  View view;

  HostMatrix(DataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride)
      : memory(static_cast<std::size_t>(rows * stride) * size_of(type), std::byte{0xFF}), view{memory.data(), type,
                                                                                               Space::host,   rows,
                                                                                               columns,       stride} {}
  HostMatrix(DataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride, const Numbers& numbers)
      : HostMatrix(type, rows, columns, stride) {
    std::size_t next = 0;
    for_each([&](std::byte* element) { store(numbers[next++], element); });
  }
  HostMatrix(const HostMatrix&) = delete;
  HostMatrix& operator=(const HostMatrix&) = delete;

  Numbers numbers() {
    Numbers result;
    for_each([&](const std::byte* element) { result.push_back(load_number(view.type, element)); });
    return result;
  }

 private:
  void store(double number, std::byte* element) const {
    if (view.type != DataType::f16) return store_number(number, view.type, element);
    const auto half = static_cast<_Float16>(number);
    std::memcpy(element, &half, sizeof half);
  }
  template <typename Action>
  void for_each(const Action& action) {
    for (std::int64_t row = 0; row < view.rows; ++row) {
      for (std::int64_t column = 0; column < view.columns; ++column) {
        action(view.row(row) + static_cast<std::size_t>(column) * size_of(view.type));
      }
    }
  }
};

/// The numbers as bf16 holds them.
Numbers rounded(const Numbers& numbers) {
  HostMatrix matrix(DataType::bf16, 1, static_cast<std::int64_t>(numbers.size()),
                    static_cast<std::int64_t>(numbers.size()), numbers);
  return matrix.numbers();
}

Numbers downloaded(CudaDevice& device, const View& view) {
  HostMatrix host(view.type, view.rows, view.columns, view.columns);
  device.download(view, host.view);
  device.synchronize();
  return host.numbers();
}

struct Product {
  std::int64_t rows, inputs, outputs;
};

constexpr Product products[] = {{1, 64, 64}, {7, 72, 33}, {5, 40, 3}, {130, 576, 200}, {65, 33, 17}, {1, 256, 1000}};

Numbers product(const Product& shape, const Numbers& x, const Numbers& weight, const Numbers& bias,
                const Numbers& before) {
  Numbers out(before);
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    for (std::int64_t output = 0; output < shape.outputs; ++output) {
      double sum = bias.empty() ? 0.0 : bias[static_cast<std::size_t>(output)];
      for (std::int64_t i = 0; i < shape.inputs; ++i) {
        sum += x[static_cast<std::size_t>(row * shape.inputs + i)] *
               weight[static_cast<std::size_t>(output * shape.inputs + i)];
      }
      out[static_cast<std::size_t>(row * shape.outputs + output)] += sum;
    }
  }
  return out;
}

enum class Into { bf16, f32, sum };

void expect_product(CudaDevice& device, Random& random, const Product& shape, bool with_bias, Into into) {
  SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.inputs << " -> " << shape.outputs
                                  << (with_bias ? ", bias" : "") << ", into " << static_cast<int>(into));
  const auto& [rows, inputs, outputs] = shape;
  const Numbers x = rounded(random.numbers(rows * inputs));
  const Numbers weight = rounded(random.numbers(outputs * inputs));
  const Numbers bias = with_bias ? rounded(random.numbers(outputs, 4.0)) : Numbers{};
  const Numbers before = into == Into::sum ? rounded(random.numbers(rows * outputs, 4.0))
                                           : Numbers(static_cast<std::size_t>(rows * outputs), 0.0);

  // Two matrices, stacked.
  const std::int64_t first = outputs / 3;
  const auto part = [](const Numbers& numbers, std::int64_t begin, std::int64_t end) {
    return Numbers(numbers.begin() + begin, numbers.begin() + end);
  };
  const HostMatrix upper(DataType::f32, first, inputs, inputs + 1, part(weight, 0, first * inputs));
  const HostMatrix lower(DataType::f32, outputs - first, inputs, inputs,
                         part(weight, first * inputs, outputs * inputs));
  std::unique_ptr<Weight> packed;
  if (with_bias) {
    const HostMatrix upper_bias(DataType::f32, 1, first, first, part(bias, 0, first));
    const HostMatrix lower_bias(DataType::f32, 1, outputs - first, outputs - first, part(bias, first, outputs));
    packed = device.pack(std::array<ConstView, 2>{upper.view, lower.view},
                         std::array<ConstView, 2>{upper_bias.view, lower_bias.view});
  } else {
    packed = device.pack(std::array<ConstView, 2>{upper.view, lower.view}, {});
  }

  const DataType type = into == Into::bf16 ? DataType::bf16 : DataType::f32;
  const DeviceMatrix x_on_device(DataType::bf16, rows, inputs, with_bias ? inputs : (inputs + 7) / 8 * 8 + 8, x);
  DeviceMatrix out(type, rows, outputs, outputs + 3);
  if (into == Into::sum) out.write(before);
  device.linear(x_on_device.view(), *packed, out.view(), into == Into::sum);
  EXPECT_CLOSE(out.read(), product(shape, x, weight, bias, before), into == Into::bf16 ? 0.004 : 2e-5);
  EXPECT_TRUE(out.poison_is_whole());

  DeviceMatrix again(type, rows, outputs, outputs + 3);
  if (into == Into::sum) again.write(before);
  device.linear(x_on_device.view(), *packed, again.view(), into == Into::sum);
  EXPECT_EQ(again.bytes(), out.bytes()) << "two runs differ";
}

TEST(CudaDevice, MultipliesAsInDoublePrecision) {
  CudaDevice device(0);
  Random random;
  for (const Product& shape : products) {
    for (const bool with_bias : {false, true}) {
      for (const Into into : {Into::bf16, Into::f32, Into::sum}) {
        expect_product(device, random, shape, with_bias, into);
      }
    }
  }
}

TEST(CudaDevice, MultipliesNoRows) {
  CudaDevice device(0);
  const HostMatrix matrix(DataType::f32, 8, 16, 16, Numbers(128, 1.0));
  const auto weight = device.pack(std::array<ConstView, 1>{matrix.view}, {});
  const DeviceMatrix x(DataType::bf16, 0, 16);
  const DeviceMatrix out(DataType::f32, 0, 8);
  device.linear(x.view(), *weight, out.view(), false);
  device.synchronize();
  EXPECT_TRUE(out.poison_is_whole());
}

TEST(CudaDevice, UploadsConvertedRowsAndLeavesTheSourceFree) {
  CudaDevice device(0);
  Random random;
  struct Conversion {
    DataType from, to;
    double tolerance;
  };
  constexpr Conversion conversions[] = {
      {DataType::f32, DataType::f32, 0.0},    {DataType::f32, DataType::bf16, 0.004},
      {DataType::bf16, DataType::bf16, 0.0},  {DataType::bf16, DataType::f32, 0.0},
      {DataType::f16, DataType::bf16, 0.005}, {DataType::f16, DataType::f32, 0.001},
      {DataType::i32, DataType::i32, 0.0},
  };
  for (const auto& [from, to, tolerance] : conversions) {
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 37}, {20, 64}}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(from) << " to " << static_cast<int>(to) << ", " << rows
                                      << " x " << columns);
      Numbers numbers = random.numbers(rows * columns, 100.0);
      if (from == DataType::i32) {
        for (double& number : numbers) number = std::floor(number);
      }
      if (from == DataType::bf16) numbers = rounded(numbers);
      HostMatrix source(from, rows, columns, columns + 5, numbers);
      const DeviceMatrix destination(to, rows, columns, (columns + 7) / 8 * 8 + 8);
      device.upload(source.view, destination.view());
      std::fill(source.memory.begin(), source.memory.end(), std::byte{0xFF});
      if (from == DataType::f32 && to == DataType::f32)
        numbers = HostMatrix(to, rows, columns, columns, numbers).numbers();
      EXPECT_CLOSE(downloaded(device, destination.view()), numbers, tolerance);
      EXPECT_TRUE(destination.poison_is_whole());
    }
  }
}

TEST(CudaDevice, UploadsMoreThanItsPiecesHold) {
  CudaDevice device(0);
  Random random;
  constexpr std::int64_t rows = 3;
  constexpr std::int64_t columns = 5'000'003;
  std::vector<std::int32_t> numbers(rows * columns);
  std::iota(numbers.begin(), numbers.end(), static_cast<std::int32_t>(random.integer(0, 1000)));
  const auto expected = numbers;
  const Buffer buffer = device.allocate(numbers.size() * sizeof(std::int32_t));
  const View on_device = buffer.view(DataType::i32, rows, columns);
  device.upload(host_view(numbers.data(), rows, columns), on_device);
  std::fill(numbers.begin(), numbers.end(), -1);
  device.download(on_device,
                  {reinterpret_cast<std::byte*>(numbers.data()), DataType::i32, Space::host, rows, columns, columns});
  device.synchronize();
  EXPECT_TRUE(numbers == expected);
}

TEST(CudaDevice, HandsOutPiecesThatDoNotOverlap) {
  CudaDevice device(0);
  Random random;
  std::vector<Buffer> buffers;
  for (int round = 0; round < 400; ++round) {
    if (!buffers.empty() && random.integer(0, 2) == 0) {
      buffers.erase(buffers.begin() + random.integer(0, static_cast<std::int64_t>(buffers.size()) - 1));
    } else {
      buffers.push_back(device.allocate(static_cast<std::size_t>(random.integer(0, 3'000'000))));
    }
  }
  std::sort(buffers.begin(), buffers.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffers[i].data()) % 256, 0U);
    if (i + 1 < buffers.size()) {
      EXPECT_LE(buffers[i].data() + buffers[i].bytes(), buffers[i + 1].data());
    }
  }
}

TEST(CudaDevice, AllocatesNothingBeyondWhatWasReserved) {
  CudaDevice device(0);
  const HeadShape shape{.heads = 4, .kv_heads = 2, .head_dim = 64};
  constexpr std::size_t bytes = 200'000'000;
  device.reserve(shape, 1000, bytes);
  std::size_t before = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&before, &total), "cudaMemGetInfo");
  for (int document = 0; document < 3; ++document) {
    device.reserve(shape, 1000, bytes);
    std::vector<Buffer> buffers;
    for (int i = 0; i < 20; ++i) buffers.push_back(device.allocate(bytes / 20));
  }
  check(cudaMemGetInfo(&after, &total), "cudaMemGetInfo");
  EXPECT_EQ(after, before) << "memory was taken from CUDA, or given back";
  EXPECT_GE(device.available_memory(), bytes);
}

TEST(CudaDevice, SaysWhenMemoryIsShortAndGoesOn) {
  CudaDevice device(0);
  expect_error([&] { device.allocate(std::size_t{1} << 50U); }, {"out of GPU memory", "1048576.00 GiB"});
  const HostMatrix source(DataType::f32, 1, 4, 4, {1, 2, 3, 4});
  const DeviceMatrix destination(DataType::bf16, 1, 4, 8);
  device.upload(source.view, destination.view());
  EXPECT_EQ(downloaded(device, destination.view()), (Numbers{1, 2, 3, 4}));
}

TEST(CudaDevice, CountsTimeToPhases) {
  CudaDevice device(0);
  const HostMatrix source(DataType::f32, 64, 1024, 1024, Numbers(64 * 1024, 1.0));
  const DeviceMatrix destination(DataType::bf16, 64, 1024);
  device.synchronize();
  device.take_phase_seconds();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) {
    device.mark(Phase::embed);
    device.upload(source.view, destination.view());
    device.mark(Phase::attention);
    device.upload(source.view, destination.view());
    if (i == 4) device.synchronize();
  }
  device.mark(Phase::other);
  device.synchronize();
  const PhaseSeconds seconds = device.take_phase_seconds();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto of = [](const PhaseSeconds& all, Phase phase) { return all[static_cast<std::size_t>(phase)]; };
  EXPECT_GT(of(seconds, Phase::embed), 0.0);
  EXPECT_GT(of(seconds, Phase::attention), 0.0);
  EXPECT_EQ(of(seconds, Phase::query), 0.0);
  EXPECT_LE(std::accumulate(seconds.begin(), seconds.end(), 0.0), wall * 1.01 + 1e-5);
  EXPECT_EQ(of(device.take_phase_seconds(), Phase::embed), 0.0);
}

TEST(CudaDevice, CallsProgressWhileItWaits) {
  CudaDevice device(0);
  int calls = 0;
  device.set_progress([&] { return ++calls > 0; });
  device.synchronize();
  const int idle = calls;
  const auto work = [](void* /*nothing*/) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  check(cudaLaunchHostFunc(device.stream(), work, nullptr), "cudaLaunchHostFunc");
  EXPECT_EQ(calls, idle);
  device.synchronize();
  EXPECT_GT(calls, idle);
  check(cudaGetLastError(), "cudaGetLastError");
}

TEST(CudaDevice, RefusesWhatItHasNoKernelsFor) {
  CudaDevice device(0);
  device.check_heads({.heads = 8, .kv_heads = 2, .head_dim = 64});
  device.check_heads({.heads = 8, .kv_heads = 2, .head_dim = 128});
  expect_error([&] { device.check_heads({.heads = 8, .kv_heads = 2, .head_dim = 80}); },
               {"head_dim 80", "64 or 128", "--device cpu"});
  const DeviceMatrix x(DataType::f32, 2, 8);
  const DeviceMatrix out(DataType::bf16, 3, 4);
  EXPECT_THROW(device.silu_multiply(x.view(), out.view()), std::invalid_argument);
}

TEST(CudaDevice, DescribesItself) {
  const CudaDevice device(0);
  EXPECT_EQ(device.compute_type(), DataType::bf16);
  EXPECT_EQ(device.tile(), 64);
  EXPECT_NE(device.description().find("bf16"), std::string::npos);
  EXPECT_FALSE(device.memory_place().empty());
  EXPECT_GT(device.available_memory(), 0U);
}

}  // namespace
}  // namespace apb::cuda
