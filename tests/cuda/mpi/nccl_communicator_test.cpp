// NCCL between ranks that have a GPU each, real or emulated: parts arrive where and when they should.
#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "comm/mpi_communicator.hpp"
#include "cuda/nccl_communicator.hpp"

namespace apb::cuda {
namespace {

constexpr std::int64_t columns = 70'001;
constexpr std::chrono::seconds limit{60};

class NcclCommunicatorTest : public testing::Test {
 protected:
  void SetUp() override {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus < host_.size()) GTEST_SKIP() << "no GPU here for each rank";
    const auto node = host_.node_memory();
    device_ = std::make_unique<CudaDevice>(node ? node->rank() : 0);
    communicator_ = std::make_unique<NcclCommunicator>(host_, *device_, limit);
  }

  /// What `rank` has to say in its part.
  static std::vector<std::int32_t> numbers_of(int rank, int round) {
    std::vector<std::int32_t> numbers(columns);
    std::iota(numbers.begin(), numbers.end(), 1'000'000 * rank + 1000 * round);
    return numbers;
  }
  /// Room for all parts, filled with this rank's alone; the others hold -1.
  Buffer parts_with_own(int round) const {
    Buffer buffer = device_->allocate(static_cast<std::size_t>(columns * host_.size()) * sizeof(std::int32_t));
    const View parts = view_of(buffer);
    const std::vector<std::int32_t> nothing(columns, -1);
    for (int rank = 0; rank < host_.size(); ++rank) {
      const auto numbers = rank == host_.rank() ? numbers_of(rank, round) : nothing;
      device_->upload(host_view(numbers.data(), 1, columns), parts.row_range(rank, 1));
    }
    return buffer;
  }
  View view_of(const Buffer& buffer) const { return buffer.view(DataType::i32, host_.size(), columns); }
  void expect_all_parts(const Buffer& buffer, int round) const {
    std::vector<std::int32_t> all(static_cast<std::size_t>(columns * host_.size()), -2);
    device_->download(view_of(buffer), {reinterpret_cast<std::byte*>(all.data()), DataType::i32, Space::host,
                                        host_.size(), columns, columns});
    device_->synchronize();
    for (int rank = 0; rank < host_.size(); ++rank) {
      const auto first = all.begin() + rank * columns;
      EXPECT_TRUE(std::equal(first, first + columns, numbers_of(rank, round).begin()))
          << "part " << rank << " on rank " << host_.rank() << ", round " << round;
    }
  }

  MpiCommunicator host_{MPI_COMM_WORLD};
  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<NcclCommunicator> communicator_;
};

TEST_F(NcclCommunicatorTest, GathersWhatIsEnqueuedBefore) {
  for (int round = 0; round < 5; ++round) {
    const Buffer parts = parts_with_own(round);
    device_->wait_for(communicator_->start_all_gather(*device_, view_of(parts)));
    expect_all_parts(parts, round);
  }
}

TEST_F(NcclCommunicatorTest, SeveralTransfersAreUnderWay) {
  const Buffer first = parts_with_own(0);
  const Buffer second = parts_with_own(1);
  auto first_transfer = communicator_->start_all_gather(*device_, view_of(first));
  const auto second_transfer = communicator_->start_all_gather(*device_, view_of(second));
  first_transfer.reset();  // finished by its end
  device_->wait_for(second_transfer);
  device_->wait_for(second_transfer);
  expect_all_parts(second, 1);
  expect_all_parts(first, 0);
}

TEST_F(NcclCommunicatorTest, EachRankGetsAPartOfEach) {
  // Part p of rank r is numbers_of(r, p).
  const Buffer send = device_->allocate(static_cast<std::size_t>(columns * host_.size()) * sizeof(std::int32_t));
  const Buffer receive = parts_with_own(0);
  for (int peer = 0; peer < host_.size(); ++peer) {
    const auto numbers = numbers_of(host_.rank(), peer);
    device_->upload(host_view(numbers.data(), 1, columns), view_of(send).row_range(peer, 1));
  }
  device_->wait_for(communicator_->start_all_to_all(*device_, view_of(send), view_of(receive)));
  expect_all_parts(receive, host_.rank());
}

TEST_F(NcclCommunicatorTest, PartsTravelRound) {
  const Buffer parts = parts_with_own(0);
  const View all = view_of(parts);
  for (int step = 0; step + 1 < host_.size(); ++step) {
    const auto row = [&](int behind) {
      return all.row_range((host_.rank() - behind + host_.size()) % host_.size(), 1);
    };
    device_->wait_for(communicator_->start_shift(*device_, row(step), row(step + 1)));
  }
  expect_all_parts(parts, 0);
}

TEST_F(NcclCommunicatorTest, WeightsThatTheFirstRankReadsReachAll) {
  constexpr std::int64_t outputs = 24;
  constexpr std::int64_t inputs = 40;
  const std::array<WeightShape, 2> shapes{WeightShape{outputs, inputs, false}, WeightShape{outputs, inputs, true}};
  std::vector<std::uint16_t> matrix(outputs * inputs);  // bf16 of 1 to 2
  for (std::size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<std::uint16_t>(0x3F80 + i * 7 % 128);
  const ConstView view{
      reinterpret_cast<const std::byte*>(matrix.data()), DataType::bf16, Space::host, outputs, inputs, inputs};
  ConstView bias = view.row_range(0, 1);
  bias.columns = outputs;
  auto reserved = device_->reserve_weights(shapes);
  ASSERT_EQ(reserved.size(), shapes.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    EXPECT_EQ(reserved[i].filled_here, host_.rank() == 0);
    const auto biases = shapes[i].bias ? std::span(&bias, 1) : std::span<const ConstView>{};
    if (reserved[i].filled_here) device_->fill(*reserved[i].weight, std::span(&view, 1), biases);
  }
  const Buffer x_memory = device_->allocate(inputs * sizeof(std::uint16_t));
  const Buffer out_memory = device_->allocate(2 * outputs * sizeof(std::uint16_t));
  const View x = x_memory.view(DataType::bf16, 1, inputs);
  device_->upload(view.row_range(3, 1), x);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto biases = shapes[i].bias ? std::span(&bias, 1) : std::span<const ConstView>{};
    const auto own = device_->pack(std::span(&view, 1), biases);
    const View out = out_memory.view(DataType::bf16, 2, outputs);
    device_->linear(x, *reserved[i].weight, out.row_range(0, 1), false);
    device_->linear(x, *own, out.row_range(1, 1), false);
    std::vector<std::uint16_t> products(2 * outputs);
    device_->download(
        out, {reinterpret_cast<std::byte*>(products.data()), DataType::bf16, Space::host, 2, outputs, outputs});
    device_->synchronize();
    EXPECT_TRUE(std::equal(products.begin(), products.begin() + outputs, products.begin() + outputs)) << "weight " << i;
  }
}

TEST_F(NcclCommunicatorTest, HostMemoryGoesThroughTheHost) {
  EXPECT_EQ(communicator_->rank(), host_.rank());
  EXPECT_EQ(communicator_->size(), host_.size());
  EXPECT_EQ(communicator_->max(host_.rank()), host_.size() - 1);
  std::string text = host_.rank() == 0 ? "from the first" : "";
  broadcast_text(*communicator_, text, 0);
  EXPECT_EQ(text, "from the first");
  const auto texts = gather_texts(*communicator_, std::to_string(host_.rank()));
  EXPECT_EQ(texts.size(), host_.rank() == 0 ? static_cast<std::size_t>(host_.size()) : 0U);
  communicator_->enter_stage("testing");
  EXPECT_EQ(host_.stage(), "testing");
}

TEST_F(NcclCommunicatorTest, RefusesPartsWithGaps) {
  const Buffer parts = parts_with_own(0);
  View view = view_of(parts);
  --view.columns;
  EXPECT_THROW(communicator_->start_all_to_all(*device_, view_of(parts), view), std::invalid_argument);
  if (host_.size() > 1) {
    EXPECT_THROW(communicator_->start_shift(*device_, view_of(parts), view_of(parts)), std::invalid_argument);
    EXPECT_THROW(communicator_->start_all_gather(*device_, view), std::invalid_argument);
  }
}

}  // namespace
}  // namespace apb::cuda
