// The layer loop over emulated ranks against the double-precision reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "comm/emulated_communicator.hpp"
#include "compare.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"
#include "model/model.hpp"
#include "model/safetensors.hpp"
#include "reference.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

constexpr int new_tokens = 3;
constexpr int key_tile = 32;

class EmulationTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    RecordProperty("seed", std::to_string(seed_));
    write_model_folder(tiny_, folder_.path());
  }

  std::vector<std::int32_t> random_tokens(int count) {
    std::uniform_int_distribution<std::int32_t> token(0, tiny_.vocabulary - 1);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
    std::ranges::generate(tokens, [&] { return token(random_); });
    return tokens;
  }

  void check(const MethodOptions& options, int context_length, bool overlap);

  TemporaryFolder folder_;
  std::uint64_t seed_ = std::random_device{}();
  std::mt19937_64 random_{seed_};
  TinyModel tiny_ = random_tiny_model(seed_, {.heads = 24, .head_dim = 8});  // for Ulysses on 8 ranks
};

void EmulationTest::check(const MethodOptions& options, int context_length, bool overlap) {
  const int ranks = GetParam();
  const DocumentLengths lengths{context_length, 6, 2, new_tokens};
  const Partition partition = make_partition(lengths, options, ranks, key_tile);
  SCOPED_TRACE(testing::Message() << "seed " << seed_ << " " << partition.describe());
  const reference::MethodOptions simulated{.full = partition.method != Method::apb && partition.method != Method::star,
                                           .blocks = partition.block_count(),
                                           .anchor_length = partition.anchor_length,
                                           .passing_length = partition.passing_length,
                                           .query_insert = partition.query_insert,
      .anchor_query = partition.anchor_query,
                                           .compressor = reference::Compressor::query_similarity};
  std::vector<std::int32_t> context;
  std::vector<std::int32_t> query;
  reference::ReferenceResult expected;
  do {
    context = random_tokens(context_length);
    query = random_tokens(6);
    expected = reference::simulate(tiny_, context, query, simulated, new_tokens);
  } while (expected.selection_margin < 1e-5);
  std::vector<double> expected_logits;
  for (const auto& row : expected.logits) expected_logits.insert(expected_logits.end(), row.begin(), row.end());
  run_emulated_ranks(ranks, [&](Communicator& world) {
    const auto device = make_cpu_device(
        {.compute_type = DataType::f32, .node = world.node_memory(), .clock = [&] { return world.busy_seconds(); }});
    Model model = load_model(*device, load_config(folder_.path()), Checkpoint::open(folder_.path()), world.rank() == 0);
    model.config.eos_tokens.clear();
    world.max(0);  // each has loaded a part of the weights
    Forward forward({.device = *device,
                     .communicator = world,
                     .model = model,
                     .partition = partition,
                     .options = options,
                     .overlap = overlap});
    const Answer answer = generate(*device, world, model, forward, context, query, new_tokens, true);
    EXPECT_EQ(answer.tokens, expected.tokens);
    if (world.rank() == 0) {
      EXPECT_CLOSE(answer.logits, expected_logits, 2e-4);
    }
    const double busy = std::accumulate(answer.phase_seconds.begin(), answer.phase_seconds.end(), 0.0);
    EXPECT_NEAR(busy, answer.prefill_seconds, 1e-3 + 0.05 * answer.prefill_seconds);
  });
}

TEST_P(EmulationTest, EveryMethodEqualsTheReference) {
  for (const auto method : {Method::apb, Method::full, Method::ring, Method::ulysses, Method::star}) {
    for (const bool overlap : {false, true}) check({.method = method}, 381, overlap);
  }
}

TEST_P(EmulationTest, ApbAsPublishedEqualsTheReference) {
  check({.blocks = GetParam(), .anchor_placement = AnchorPlacement::replicated}, 381, false);
  check({.blocks = GetParam()}, 381, false);
}

INSTANTIATE_TEST_SUITE_P(Ranks, EmulationTest, testing::Values(1, 2, 3, 4, 8));

}  // namespace
}  // namespace apb
