#include "context/work.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <vector>

#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"

namespace apb {
namespace {

constexpr int tile = 32;

ModelConfig config_of(int layers) {
  return {
      .layers = layers, .hidden = 48, .heads = 6, .kv_heads = 2, .head_dim = 8, .intermediate = 100, .vocabulary = 77};
}

double flops(const PhaseWork& work, Phase phase) { return work[static_cast<std::size_t>(phase)].flops; }
double bytes(const PhaseWork& work, Phase phase) { return work[static_cast<std::size_t>(phase)].bytes; }

double total_flops(const PhaseWork& work) {
  double sum = 0.0;
  for (const Work& phase : work) sum += phase.flops;
  return sum;
}

bool is_exact(const Partition& partition) {
  return partition.method != Method::apb && partition.method != Method::star;
}

/// Pairs by asking, for every row and every entry that is there, whether the row sees it.
std::int64_t pairs_by_mask(const Partition& partition) {
  std::int64_t pairs = 0;
  for (int row = 0; row < partition.anchor_length; ++row) {
    for (int key = 0; key < partition.anchor_length; ++key) pairs += key <= row ? 1 : 0;
  }
  for (int number = 0; number < partition.block_count(); ++number) {
    const Block& own = partition.blocks[static_cast<std::size_t>(number)];
    for (std::int64_t row = own.begin; row < own.end; ++row) {
      for (int key = 0; key < partition.anchor_length; ++key) pairs += number > 0 ? 1 : 0;
      for (int other = 0; other < partition.block_count(); ++other) {
        const Block& earlier = partition.blocks[static_cast<std::size_t>(other)];
        const int passing = is_exact(partition) ? earlier.length() : earlier.passing;
        for (int key = 0; key < passing; ++key) pairs += other < number ? 1 : 0;
      }
      for (std::int64_t key = own.begin; key < own.end; ++key) pairs += key <= row ? 1 : 0;
    }
  }
  return pairs;
}

TEST(Work, ExactAttentionIsTheClosedForm) {
  const ModelConfig config = config_of(5);
  const std::int64_t context = 301;
  const std::int64_t query = 13;
  for (const int blocks : {1, 4}) {
    const auto partition = make_partition({.context = context, .query = query, .max_new_tokens = 1},
                                          {.method = Method::full, .blocks = blocks}, 1, tile);
    const double layer = 48.0 * (6 + 2 * 2) * 8 + 48.0 * 48 + 3.0 * 48 * 100;
    const double rows = static_cast<double>(context + query);
    const double last = 48.0 * 2 * 2 * 8 * static_cast<double>(context) + layer * static_cast<double>(query);
    const double products = 2.0 * (4 * layer * rows + last + 48.0 * 77);
    const double context_pairs = 301.0 * 302 / 2;
    const double query_pairs = 13.0 * 301 + 13.0 * 14 / 2;
    const double attention = 4.0 * (4 * context_pairs + 5 * query_pairs) * 48;
    EXPECT_DOUBLE_EQ(prefill_flops(config, partition), products + attention);
    EXPECT_DOUBLE_EQ(total_flops(prefill_work(config, partition, 0, 2)), products + attention);
  }
}

TEST(Work, PairsAreThoseOfTheMask) {
  std::mt19937 random(std::random_device{}());
  const auto between = [&](int low, int high) { return std::uniform_int_distribution(low, high)(random); };
  const auto device = make_cpu_device({});
  for (int trial = 0; trial < 40; ++trial) {
    const int ranks = between(1, 4);
    const int query = between(1, 9);
    const int blocks = ranks * between(1, 3);
    const int length = between(40, 70);
    const auto method = static_cast<Method>(between(0, 4));
    if (method == Method::ulysses && config_of(2).heads % ranks != 0) continue;
    const MethodOptions options{.method = method,
                                .blocks = blocks,
                                .anchor_length = between(0, 1) == 0 ? 0 : between(20, 40),
                                .passing_length = between(0, 30),
                                .query_insert = 2,
                                .anchor_query = between(0, 1) == 0};
    const auto partition =
        make_partition({.context = blocks * length - between(0, blocks - 1), .query = query, .max_new_tokens = 1},
                       options, ranks, tile);
    SCOPED_TRACE(partition.describe());
    const ModelConfig config = config_of(2);  // one layer in which context rows attend
    double attention = 0.0;
    double all = 0.0;
    double query_once = 0.0;
    for (int rank = 0; rank < ranks; ++rank) {
      const PhaseWork work = prefill_work(config, partition, rank, 2);
      attention += flops(work, Phase::attention);
      all += total_flops(work) - flops(work, Phase::query);
      query_once = std::max(query_once, flops(work, Phase::query));
    }
    const auto context_pairs = static_cast<double>(pairs_by_mask(partition));
    const auto query_pairs = static_cast<double>(query) * static_cast<double>(partition.lengths.context) +
                             static_cast<double>(query) * (query + 1) / 2.0;
    EXPECT_DOUBLE_EQ(attention, 4.0 * 48 * context_pairs);
    const PrefillCounts counts = count_prefill(*device, config, partition);
    ASSERT_EQ(counts.pairs.size(), static_cast<std::size_t>(partition.ranks_used()));
    const double pairs = std::accumulate(counts.pairs.begin(), counts.pairs.end(), 0.0);
    EXPECT_DOUBLE_EQ(pairs, 6 * (context_pairs + 2 * query_pairs));  // heads; layers in which query rows attend
    if (is_exact(partition)) {
      EXPECT_DOUBLE_EQ(pairs, counts.full_pairs);
    }
    if (ranks == 1) {
      EXPECT_DOUBLE_EQ(all + query_once, prefill_flops(config, partition));
    }
    EXPECT_LE(all + query_once, prefill_flops(config, partition));
  }
}

TEST(Work, ShardedRanksDoTheWorkOfOne) {
  const ModelConfig config = config_of(4);
  const DocumentLengths lengths{.context = 640, .query = 7, .max_new_tokens = 1};
  const MethodOptions options{.blocks = 8, .anchor_length = 30, .passing_length = 11, .query_insert = 2};
  const auto partition = make_partition(lengths, options, 4, tile);
  double parts = 0.0;
  for (int rank = 0; rank < 4; ++rank) {
    const PhaseWork work = prefill_work(config, partition, rank, 2);
    parts += total_flops(work) - flops(work, Phase::query);
  }
  const PhaseWork alone = prefill_work(config, make_partition(lengths, options, 1, tile), 0, 2);
  const double context_rows = 640;
  const double all_rows = 640 + 30;  // with the anchor, which is not in the last layer
  EXPECT_DOUBLE_EQ(flops(alone, Phase::projection), 2 * 48.0 * (3 * all_rows * (80 + 48) + context_rows * 32));
  EXPECT_DOUBLE_EQ(flops(alone, Phase::feed_forward), 2 * 3 * all_rows * 3 * 48 * 100);
  EXPECT_DOUBLE_EQ(parts, total_flops(alone) - flops(alone, Phase::query));
  // The last rank has blocks 3 and 4, and of the anchor, which fits into the first rank's slice, nothing to compute.
  const double keys = 2 * (30 + 80) + (3 + 4) * 11;
  EXPECT_DOUBLE_EQ(bytes(prefill_work(config, partition, 3, 2), Phase::attention),
                   3 * 2 * (2 * 48 * 160 + 2 * 2 * 8 * keys));
  EXPECT_DOUBLE_EQ(prefill_flops(config, partition), total_flops(alone));
}

TEST(Work, DecodingReadsAllWeightsAndTheCacheForEachToken) {
  const ModelConfig config = config_of(3);
  const auto partition =
      make_partition({.context = 100, .query = 5, .max_new_tokens = 3}, {.method = Method::full}, 1, tile);
  const PhaseWork work = decode_work(config, partition, 0, 2, 2);
  const double layer = 48.0 * (6 + 2 * 2) * 8 + 48.0 * 48 + 3.0 * 48 * 100;
  const double keys = 106 + 107;                                  // seen by the two tokens, themselves included
  const double rows = 2 * (6 * 4 * 48 + 2 * (80 + 48 + 2 * 48));  // residual stream; qkv, attended, attention's two
  EXPECT_DOUBLE_EQ(bytes(work, Phase::query), 3 * (2 * 2 * layer + 2 * 2 * 2 * 8 * keys + rows));
  EXPECT_DOUBLE_EQ(flops(work, Phase::query), 3 * (2 * 2 * layer + 4.0 * 48 * keys));
  EXPECT_DOUBLE_EQ(flops(work, Phase::head), 2 * 2 * 48.0 * 77);
  EXPECT_DOUBLE_EQ(flops(work, Phase::attention), 0.0);
}

}  // namespace
}  // namespace apb
