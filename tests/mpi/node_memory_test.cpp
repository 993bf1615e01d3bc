// What the ranks of a node share.
#include "comm/node_memory.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "comm/mpi_communicator.hpp"
#include "cpu/cpu_device.hpp"
#include "cpu/packed_weight.hpp"
#include "expect_error.hpp"

namespace apb {
namespace {

class NodeMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (node_ == nullptr) GTEST_SKIP() << "one rank alone shares nothing";
  }
  void barrier() { world_.max(0); }

  MpiCommunicator world_{MPI_COMM_WORLD};
  std::shared_ptr<NodeMemory> node_ = world_.node_memory();
};

TEST_F(NodeMemoryTest, AllRanksSeeWhatOneWrites) {
  constexpr std::size_t part = 12345;
  const Buffer buffer = node_->allocate(part * static_cast<std::size_t>(node_->size()), part << 20U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0U);
  std::memset(buffer.data() + part * static_cast<std::size_t>(node_->rank()), node_->rank() + 1, part);
  barrier();
  for (std::size_t i = 0; i < buffer.bytes(); ++i) {
    ASSERT_EQ(static_cast<int>(buffer.data()[i]), static_cast<int>(i / part) + 1) << i;
  }
  barrier();
}

TEST_F(NodeMemoryTest, AllRanksThrowWhenOneHasNotEnough) {
  const std::size_t available = node_->rank() == node_->size() - 1 ? 999 : 1 << 20U;
  expect_error([&] { static_cast<void>(node_->allocate(1000, available)); }, {"GiB on a node", "more memory"});
}

TEST_F(NodeMemoryTest, RanksPackEveryWeightOnceAndSeeAll) {
  std::uint64_t seed = std::random_device{}();
  world_.broadcast(std::as_writable_bytes(std::span(&seed, 1)), 0);
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    const auto shared = make_cpu_device({.threads = 1, .compute_type = type, .node = node_});
    const auto alone = make_cpu_device({.threads = 1, .compute_type = type});
    std::vector<WeightShape> shapes;
    for (int i = 0; i < 9; ++i) {
      shapes.push_back({static_cast<std::int64_t>(random() % 200 + 1), static_cast<std::int64_t>(random() % 90 + 1),
                        random() % 2 == 0});
    }
    auto reserved = shared->reserve_weights(shapes);
    std::vector<std::unique_ptr<Weight>> expected;
    int filled = 0;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const auto& [outputs, inputs, bias] = shapes[i];
      std::vector<float> numbers(static_cast<std::size_t>(outputs * inputs));
      for (float& number : numbers) number = static_cast<float>(random() % 2000) - 1000.0F;
      const std::vector matrix{host_view(numbers.data(), outputs, inputs)};
      const std::vector<ConstView> biases(bias ? 1 : 0, host_view(numbers.data(), 1, outputs));
      if (reserved[i].filled_here) {
        shared->fill(*reserved[i].weight, matrix, biases);
        ++filled;
      }
      expected.push_back(alone->pack(matrix, biases));
    }
    std::vector<int> all(1, filled);
    int sum = 0;
    const auto counts = world_.gather(std::as_bytes(std::span(all)));
    for (std::size_t at = 0; at < counts.size(); at += sizeof(int)) {
      sum += *reinterpret_cast<const int*>(counts.data() + at);
    }
    if (world_.rank() == 0) {
      EXPECT_EQ(sum, shapes.size());
    }
    barrier();
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const auto& own = dynamic_cast<const cpu::PackedWeight&>(*reserved[i].weight);
      const auto& other = dynamic_cast<const cpu::PackedWeight&>(*expected[i]);
      const std::int64_t words = own.layout().strips() * 64 * own.layout().words;
      EXPECT_EQ(std::memcmp(own.data(), other.data(), static_cast<std::size_t>(words) * 4), 0) << i;
      for (std::int64_t output = 0; own.bias() != nullptr && output < own.outputs(); ++output) {
        EXPECT_EQ(own.bias()[output], other.bias()[output]);
      }
    }
    barrier();
  }
}

}  // namespace
}  // namespace apb
