// Emulated ranks compute what as many real ones do, to the last bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "comm/emulated_communicator.hpp"
#include "comm/mpi_communicator.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"
#include "model/random_weights.hpp"
#include "model/shapes.hpp"

namespace apb {
namespace {

struct Document {
  std::vector<std::int32_t> context;
  std::vector<std::int32_t> query;
};

/// On rank 0 with logits.
Answer answer_on(Communicator& world, const MethodOptions& options, DataType type, const Document& document) {
  constexpr int new_tokens = 5;
  const auto device = make_cpu_device({.compute_type = type, .node = world.node_memory()});
  const Model model = load_model(*device, shape_named("tiny"), RandomWeights(1, 1), world.rank() == 0);
  world.max(0);  // each has loaded a part of the weights
  const DocumentLengths lengths{static_cast<std::int64_t>(document.context.size()),
                                static_cast<std::int64_t>(document.query.size()), 2, new_tokens};
  const Partition partition = make_partition(lengths, options, world.size(), device->tile());
  Forward forward(
      {.device = *device, .communicator = world, .model = model, .partition = partition, .options = options});
  return generate(*device, world, model, forward, document.context, document.query, new_tokens, true);
}

TEST(Emulation, EqualsRealRanksToTheLastBit) {
  MpiCommunicator world(MPI_COMM_WORLD);
  std::uint64_t seed = std::random_device{}();
  world.broadcast(std::as_writable_bytes(std::span(&seed, 1)), 0);
  std::mt19937_64 random(seed);
  const auto tokens = [&](std::int64_t count) {
    std::vector<std::int32_t> drawn(static_cast<std::size_t>(count));
    std::ranges::generate(drawn, [&] { return static_cast<std::int32_t>(random() % 500); });
    return drawn;
  };
  for (const auto method : {Method::apb, Method::full, Method::ring, Method::ulysses, Method::star}) {
    if (method == Method::ulysses && shape_named("tiny").heads % world.size() != 0) continue;
    for (const auto placement : {AnchorPlacement::sharded, AnchorPlacement::replicated}) {
      for (const DataType type : {DataType::bf16, DataType::f32}) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << " method " << static_cast<int>(method));
        const MethodOptions options{.method = method, .anchor_placement = placement};
        const Document document{tokens(701 + static_cast<std::int64_t>(random() % 300)), tokens(9)};
        const Answer real = answer_on(world, options, type, document);
        int answers = 0;
        run_emulated_ranks(world.size(), [&](Communicator& emulated) {
          const Answer same = answer_on(emulated, options, type, document);
          EXPECT_EQ(same.tokens, real.tokens);
          if (emulated.rank() == world.rank()) {
            EXPECT_EQ(same.logits, real.logits);
          }
          ++answers;
        });
        EXPECT_EQ(answers, world.size());
      }
    }
  }
}

}  // namespace
}  // namespace apb
