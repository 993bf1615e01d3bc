// A model with random weights must keep its activations in the range that a real one has, through any number of layers.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "comm/mpi_communicator.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"
#include "model/model.hpp"
#include "model/random_weights.hpp"
#include "model/shapes.hpp"

namespace apb {
namespace {

TEST(RandomModel, LogitsStayInRangeThroughEightyLayers) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::bf16});
  MpiCommunicator self(MPI_COMM_SELF);
  ModelConfig config = shape_named("tiny");
  config.layers = 80;
  const Model model = load_model(*device, config, RandomWeights(7, 1), true);
  std::vector<std::int32_t> context(150);
  std::iota(context.begin(), context.end(), 0);
  const std::vector<std::int32_t> query = {5, 300, 17};
  const MethodOptions options{.method = Method::full};
  const Partition partition = make_partition({150, 3, 0, 4}, options, 1, device->tile());
  Forward forward(
      {.device = *device, .communicator = self, .model = model, .partition = partition, .options = options});
  const Answer answer = generate(*device, self, model, forward, context, query, 4, true);
  ASSERT_EQ(answer.tokens.size(), 4U);
  double squares = 0.0;
  for (const float logit : answer.logits) {
    ASSERT_TRUE(std::isfinite(logit));
    squares += static_cast<double>(logit) * logit;
  }
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(answer.logits.size())), 1.0, 0.5);  // of rows that are normed
}

}  // namespace
}  // namespace apb
