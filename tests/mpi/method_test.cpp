// The layer loop over MPI ranks against the double-precision reference: logits, tokens and selections.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

#include "comm/mpi_communicator.hpp"
#include "compare.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/methods/ulysses.hpp"
#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"
#include "deferred_device.hpp"
#include "error.hpp"
#include "model/model.hpp"
#include "model/safetensors.hpp"
#include "reference.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

constexpr int new_tokens = 4;
constexpr std::uint64_t document_hash = 77;

struct Case {
  MethodOptions options;
  int context = 0;
  int query = 0;
  int prefix = 0;
  int further = 0;  // tokens of a further question
  bool overlap = false;
};

/// What the ranks made of a case; logits and tokens on rank 0, selection of this rank's blocks.
struct Outcome {
  Partition partition;
  Answer answer;
  std::vector<std::int32_t> selection;
};

/// Whether rounding to float32 could change a selection or a token: such inputs are drawn again.
bool is_ambiguous(const reference::ReferenceResult& expected) {
  constexpr double least_margin = 1e-5;
  if (expected.selection_margin < least_margin) return true;
  return std::any_of(expected.logits.begin(), expected.logits.end(),
                     [](const std::vector<double>& logits) { return reference::margin(logits, 0, 1) < least_margin; });
}

std::vector<double> flatten(const std::vector<std::vector<double>>& rows) {
  std::vector<double> values;
  for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
  return values;
}

class MethodFixture : public testing::Test {
 protected:
  // A new random model, the same on every rank.
  void prepare(const TinyShape& shape, bool deferred) {
    std::uint64_t seed = std::random_device{}();
    world_.broadcast(std::as_writable_bytes(std::span(&seed, 1)), 0);
    SCOPED_TRACE(seed);
    RecordProperty("seed", std::to_string(seed));
    random_.seed(seed);
    tiny_ = random_tiny_model(seed, shape);
    write_model_folder(tiny_, folder_.path() / "model");
    write_retaining_heads(tiny_, folder_.path() / "heads.safetensors");
    if (deferred) deferred_ = std::make_unique<DeferredDevice>(*direct_);
    const ModelConfig config = load_config(folder_.path() / "model");
    model_ = load_model(device(), config, Checkpoint::open(folder_.path() / "model"), world_.rank() == 0);
    model_.retaining_heads =
        load_retaining_heads(device(), config, Checkpoint::open_file(folder_.path() / "heads.safetensors"));
    world_.max(0);                     // ranks of a node have loaded parts of what they share
    model_.config.eos_tokens.clear();  // as many tokens as asked for
  }

  Device& device() { return deferred_ ? static_cast<Device&>(*deferred_) : *direct_; }

  std::vector<std::int32_t> random_tokens(int count) {
    std::uniform_int_distribution<std::int32_t> token(0, tiny_.vocabulary - 1);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
    for (auto& value : tokens) value = token(random_);
    return tokens;
  }

  Partition partition_of(const Case& one) {
    return make_partition({one.context, one.query, one.prefix, new_tokens, one.further}, one.options, world_.size(),
                          device().tile());
  }

  Outcome run(const Case& one, std::span<const std::int32_t> context, std::span<const std::int32_t> query) {
    Outcome outcome;
    outcome.partition = partition_of(one);
    Forward forward({.device = device(),
                     .communicator = world_,
                     .model = model_,
                     .partition = outcome.partition,
                     .options = one.options,
                     .document = document_hash,
                     .keep_selection = true,
                     .overlap = one.overlap});
    outcome.answer = generate(device(), world_, model_, forward, context, query, new_tokens, true);
    if (outcome.partition.method == Method::apb) outcome.selection = forward.selection();
    return outcome;
  }

  static reference::MethodOptions reference_options(const Partition& partition, const MethodOptions& options) {
    const std::array compressors = {reference::Compressor::retaining_heads, reference::Compressor::query_similarity,
                                    reference::Compressor::random, reference::Compressor::recent};
    return {.full = partition.method != Method::apb && partition.method != Method::star,
            .blocks = partition.block_count(),
            .anchor_length = partition.anchor_length,
            .passing_length = partition.passing_length,
            .query_insert = partition.query_insert,
            .anchor_query = partition.anchor_query,
            .compressor = compressors.at(static_cast<std::size_t>(options.compressor)),
            .seed = options.seed,
            .document = document_hash};
  }

  void compare_selection(const Outcome& outcome, const reference::ReferenceResult& expected) {
    const Partition& partition = outcome.partition;
    const auto own = partition.blocks_of(world_.rank());
    auto next = outcome.selection.begin();
    for (int layer = 0; layer < tiny_.layers; ++layer) {
      for (const int block : own) {
        for (int head = 0; head < tiny_.kv_heads; ++head) {
          const std::vector<std::int32_t> slots(next, next + partition.passing_length);
          next += partition.passing_length;
          auto wanted = expected.positions.at(static_cast<std::size_t>(layer))
                            .at(static_cast<std::size_t>(block))
                            .at(static_cast<std::size_t>(head));
          wanted.resize(slots.size(), -1);
          ASSERT_EQ(slots, wanted) << "layer " << layer << " block " << block << " KV head " << head;
        }
      }
    }
    EXPECT_EQ(next, outcome.selection.end());
  }

  void check(const Case& one) {
    SCOPED_TRACE(testing::Message() << "context " << one.context << " query " << one.query << " blocks "
                                    << one.options.blocks.value_or(0) << " compressor "
                                    << static_cast<int>(one.options.compressor));
    const Partition partition = partition_of(one);
    std::vector<std::int32_t> context;
    std::vector<std::int32_t> query;
    reference::ReferenceResult expected;
    do {
      context = random_tokens(one.context);
      query = random_tokens(one.query);
      expected = reference::simulate(tiny_, context, query, reference_options(partition, one.options), new_tokens);
    } while (is_ambiguous(expected));
    const Outcome outcome = run(one, context, query);
    EXPECT_EQ(outcome.answer.tokens, expected.tokens);
    if (world_.rank() == 0) {
      EXPECT_CLOSE(outcome.answer.logits, flatten(expected.logits), 2e-4);
    }
    if (!outcome.selection.empty()) compare_selection(outcome, expected);
  }

  TemporaryFolder folder_;
  MpiCommunicator world_{MPI_COMM_WORLD};
  std::unique_ptr<Device> direct_ =
      make_cpu_device({.threads = 1, .compute_type = DataType::f32, .node = world_.node_memory()});
  std::unique_ptr<DeferredDevice> deferred_;
  TinyModel tiny_;
  Model model_;
  std::mt19937_64 random_;
};

/// On a device that computes at once, and on one that puts everything off.
class MethodTest : public MethodFixture, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override { prepare({}, GetParam()); }
};

/// Every model family and RoPE scaling.
class FamilyTest : public MethodFixture, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override { prepare(tiny_families().at(GetParam()), true); }
};

TEST_P(FamilyTest, EqualsTheReference) {
  for (const auto method : {Method::full, Method::ring, Method::ulysses}) {
    if (method == Method::ulysses && tiny_.heads % world_.size() != 0) continue;
    check({.options = {.method = method}, .context = 153, .query = 5});
  }
  for (const auto compressor : {CompressorKind::retaining_heads, CompressorKind::query_similarity,
                                CompressorKind::random, CompressorKind::recent}) {
    check({.options = {.blocks = 2 * world_.size(), .compressor = compressor, .seed = 3},
           .context = 173,
           .query = 6,
           .prefix = 2});
  }
}

TEST_P(MethodTest, FullEqualsTheReference) {
  for (const int context : {1, 2, 33, 157})
    check({.options = {.method = Method::full}, .context = context, .query = 5});
}

TEST_P(MethodTest, OverlapChangesNothingButTheOrder) {
  for (const auto method : {Method::apb, Method::full, Method::star}) {
    for (const auto placement : {AnchorPlacement::sharded, AnchorPlacement::replicated}) {
      check({.options = {.method = method, .anchor_placement = placement},
             .context = 331 * world_.size(),
             .query = 7,
             .prefix = 3,
             .overlap = true});
    }
  }
}

TEST_P(MethodTest, RingEqualsTheReference) {
  for (const int context : {1, 2, 33, 157})
    check({.options = {.method = Method::ring}, .context = context, .query = 5});
  check({.options = {.method = Method::ring, .blocks = 3 * world_.size()}, .context = 203, .query = 1});
  check({.options = {.method = Method::ring}, .context = 600 * world_.size(), .query = 4});
}

TEST_P(MethodTest, UlyssesEqualsTheReference) {
  if (tiny_.heads % world_.size() != 0) {
    EXPECT_THROW(ulysses_share(model_.config.head_shape(), world_.size()), Error);
    return;
  }
  for (const int context : {1, 2, 33, 157})
    check({.options = {.method = Method::ulysses}, .context = context, .query = 5});
  check({.options = {.method = Method::ulysses, .blocks = 2 * world_.size()}, .context = 203, .query = 1});
  check({.options = {.method = Method::ulysses}, .context = 600 * world_.size(), .query = 4});
}

TEST_P(MethodTest, StarEqualsTheSimulation) {
  for (const auto placement : {AnchorPlacement::sharded, AnchorPlacement::replicated}) {
    for (const int blocks : {world_.size(), 2 * world_.size()}) {
      check({.options = {.method = Method::star, .blocks = blocks, .anchor_placement = placement},
             .context = 211,
             .query = 7,
             .prefix = 3});
    }
  }
  for (const int context : {1, 3, 40}) check({.options = {.method = Method::star}, .context = context, .query = 5});
}

TEST_P(MethodTest, ApbEqualsTheSimulationForEveryNumberOfBlocks) {
  for (const int blocks : {1, 2, 3, 4, 8}) {
    if (blocks % world_.size() != 0) continue;
    for (const auto compressor : {CompressorKind::retaining_heads, CompressorKind::query_similarity,
                                  CompressorKind::random, CompressorKind::recent}) {
      check({.options = {.blocks = blocks, .compressor = compressor, .seed = 5},
             .context = 211,
             .query = 7,
             .prefix = 3});
    }
  }
}

TEST_P(MethodTest, ARankThatIsToldToStopTakesAllRanksAlong) {
  const MethodOptions options{.blocks = 2 * world_.size()};
  const auto context = random_tokens(211);
  const auto query = random_tokens(7);
  const Partition partition = partition_of({options, 211, 7, 3});
  for (int answers = 0;; answers = 2 * answers + 1) {  // how often the rank says no: later and later in the document
    int told = std::uniform_int_distribution(0, world_.size() - 1)(random_);
    world_.broadcast(std::as_writable_bytes(std::span(&told, 1)), 0);
    int asked = 0;
    Forward forward({.device = device(),
                     .communicator = world_,
                     .model = model_,
                     .partition = partition,
                     .options = options,
                     .stop_requested = [&] { return world_.rank() == told && ++asked > answers; }});
    bool interrupted = false;
    try {
      generate(device(), world_, model_, forward, context, query, new_tokens, false);
    } catch (const Interrupted&) {
      interrupted = true;
    }
    EXPECT_EQ(world_.max(interrupted ? 1 : 0), interrupted ? 1 : 0);
    EXPECT_EQ(world_.max(interrupted ? 0 : 1), interrupted ? 0 : 1);
    if (!interrupted) {
      EXPECT_GT(answers, tiny_.layers + new_tokens);
      break;
    }
  }
  check({.options = options, .context = 211, .query = 7, .prefix = 3});  // nothing of it is left behind
}

TEST_P(MethodTest, EveryAnchorAndPassingLength) {
  const int blocks = 2 * world_.size();
  const int context = 41 * blocks - 3;
  for (const auto placement : {AnchorPlacement::sharded, AnchorPlacement::replicated}) {
    for (const int anchor : {0, 9, 38}) {
      for (const int passing : {0, 1, 13, 500}) {
        check({.options = {.blocks = blocks,
                           .anchor_length = anchor,
                           .passing_length = passing,
                           .anchor_placement = placement},
               .context = context,
               .query = 6,
               .prefix = 2});
      }
    }
    check({.options = {.blocks = blocks, .anchor_length = 20, .anchor_query = false, .anchor_placement = placement},
           .context = context,
           .query = 6});
    check({.options = {.blocks = blocks, .anchor_length = 20, .query_insert = 14, .anchor_placement = placement},
           .context = context,
           .query = 6});
  }
}

TEST_P(MethodTest, ContiguousBlocksAsPublished) {
  for (const auto placement : {AnchorPlacement::sharded, AnchorPlacement::replicated}) {
    check({.options = {.blocks = world_.size(),
                       .anchor_placement = placement,
                       .compressor = CompressorKind::retaining_heads},
           .context = 60 * world_.size() + 1,
           .query = 9,
           .prefix = 4});
  }
}

TEST_P(MethodTest, DocumentsTooShortForTheirRanks) {
  for (const int context : {3, 10, 25, 60, 100}) check({.context = context, .query = 8, .prefix = 1});
}

TEST_P(MethodTest, OneQueryToken) { check({.context = 150, .query = 1, .prefix = 1}); }

TEST_P(MethodTest, FurtherQuestionsSeeTheSameCache) {
  for (const auto method : {Method::apb, Method::full, Method::ring, Method::ulysses, Method::star}) {
    if (method == Method::ulysses && tiny_.heads % world_.size() != 0) continue;
    for (const int length : {1, 3, 11}) {
      const Case one{.options = {.method = method}, .context = 231, .query = 5, .prefix = 2, .further = length};
      const Partition partition = partition_of(one);
      std::vector<std::int32_t> context;
      std::vector<std::int32_t> query;
      std::vector<std::int32_t> further;
      reference::ReferenceResult expected;
      do {
        context = random_tokens(one.context);
        query = random_tokens(one.query);
        further = random_tokens(length);
        expected = reference::simulate_further(tiny_, context, query, further,
                                               reference_options(partition, one.options), new_tokens);
      } while (is_ambiguous(expected));
      Forward forward({device(), world_, model_, partition, one.options, document_hash});
      generate(device(), world_, model_, forward, context, query, new_tokens, false);
      const Answer again = generate_further(device(), world_, model_, forward, further, new_tokens, true);
      EXPECT_EQ(again.tokens, expected.tokens);
      if (world_.rank() == 0) {
        EXPECT_CLOSE(again.logits, flatten(expected.logits), 2e-4);
      }
    }
  }
}

TEST_P(MethodTest, RowsBeyondOneChunk) {
  const int blocks = 2 * world_.size();
  check(
      {.options = {.blocks = blocks, .anchor_length = 300, .passing_length = 40}, .context = 530 * blocks, .query = 5});
}

TEST_P(MethodTest, PassingEverythingWithoutAnchorIsFull) {
  const int blocks = 2 * world_.size();
  const Case everything{
      .options = {.blocks = blocks, .anchor_length = 0, .passing_length = 1000}, .context = 191, .query = 4};
  const auto context = random_tokens(everything.context);
  const auto query = random_tokens(everything.query);
  const Outcome apb = run(everything, context, query);
  const Outcome full = run(
      {.options = {.method = Method::full}, .context = everything.context, .query = everything.query}, context, query);
  EXPECT_EQ(apb.answer.tokens, full.answer.tokens);
  if (world_.rank() == 0) {
    EXPECT_CLOSE(apb.answer.logits, full.answer.logits, 1e-5);
  }
}

TEST_P(MethodTest, TheSameRunTwiceGivesTheSameBytes) {
  const Case one{.context = 300, .query = 5, .prefix = 2};
  const auto context = random_tokens(one.context);
  const auto query = random_tokens(one.query);
  const Outcome first = run(one, context, query);
  const Outcome second = run(one, context, query);
  EXPECT_EQ(first.answer.tokens, second.answer.tokens);
  EXPECT_EQ(first.answer.logits, second.answer.logits);
  EXPECT_EQ(first.selection, second.selection);
}

TEST_P(MethodTest, PhasesAddUpToThePrefill) {
  const Case one{.context = 400, .query = 5, .prefix = 2};
  const auto outcome = run(one, random_tokens(one.context), random_tokens(one.query));
  double sum = 0.0;
  for (const double seconds : outcome.answer.phase_seconds) {
    EXPECT_GE(seconds, 0.0);
    sum += seconds;
  }
  EXPECT_NEAR(sum / outcome.answer.prefill_seconds, 1.0, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Devices, MethodTest, testing::Bool(),
                         [](const auto& kind) { return kind.param ? "Deferred" : "Direct"; });

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& [name, shape] : tiny_families()) names.push_back(name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest, testing::ValuesIn(family_names()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace apb
