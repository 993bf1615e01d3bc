#include "context/partition.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "error.hpp"

namespace apb {
namespace {

constexpr int tile = 32;

Partition partition_of(std::int64_t context, std::int64_t query, const MethodOptions& options, int ranks,
                       std::int64_t prefix = 0) {
  return make_partition({.context = context, .query = query, .prefix = prefix, .max_new_tokens = 4}, options, ranks,
                        tile);
}

std::string failure_of(std::int64_t context, std::int64_t query, const MethodOptions& options, int ranks) {
  try {
    partition_of(context, query, options, ranks);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(Partition, BlocksCoverTheContextOnceAndRanksEvenly) {
  std::mt19937 random(std::random_device{}());
  for (int trial = 0; trial < 200; ++trial) {
    const int ranks = std::uniform_int_distribution(1, 5)(random);
    const int blocks = ranks * std::uniform_int_distribution(1, 4)(random);
    const std::int64_t context = std::uniform_int_distribution(blocks * blocks, 5000)(random);
    const auto partition = partition_of(context, 3, {.blocks = blocks, .anchor_length = 0, .passing_length = 7}, ranks);
    ASSERT_EQ(partition.block_count(), blocks);
    std::int64_t next = 0;
    std::vector<int> owned(static_cast<std::size_t>(ranks), 0);
    for (const Block& block : partition.blocks) {
      EXPECT_EQ(block.begin, next);
      EXPECT_GT(block.end, block.begin);
      EXPECT_EQ(block.index, owned[static_cast<std::size_t>(block.rank)]++);
      next = block.end;
    }
    EXPECT_EQ(next, context);
    for (const int count : owned) EXPECT_EQ(count, blocks / ranks);
    EXPECT_EQ(partition.blocks.back().passing, 0);
  }
}

TEST(Partition, DealsInRoundsOfAlternatingDirection) {
  const auto partition = partition_of(1200, 3, {.blocks = 12, .anchor_length = 0}, 4);
  std::vector<int> ranks;
  for (const Block& block : partition.blocks) ranks.push_back(block.rank);
  EXPECT_EQ(ranks, (std::vector{0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3}));
  EXPECT_EQ(partition.blocks_of(1), (std::vector{1, 6, 9}));
}

TEST(Partition, ChoosesThePublishedLengths) {
  for (const auto& [context, anchor, passing] : {std::array{32768, 1024, 512},
                                                 {65536, 2048, 1024},
                                                 {131072, 4096, 2048},
                                                 {262144, 8192, 4096},
                                                 {524288, 8192, 8192}}) {
    const auto partition = partition_of(context, 40, {.blocks = 8}, 8, 20);
    EXPECT_EQ(partition.anchor_length, anchor);
    EXPECT_EQ(partition.passing_length, passing);
    EXPECT_EQ(partition.query_insert, 20);
  }
}

TEST(Partition, AnchorSlicesCoverTheAnchorInTiles) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    for (const int anchor : {1, 31, 33, 64, 100, 130}) {
      const auto partition =
          partition_of(200LL * 2 * ranks, 1, {.blocks = 2 * ranks, .anchor_length = anchor, .query_insert = 0}, ranks);
      EXPECT_EQ(partition.anchor_capacity % tile, 0);
      int next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto slice = partition.anchor_slice(rank);
        EXPECT_EQ(slice.begin, next);
        EXPECT_LE(slice.length(), partition.anchor_capacity);
        next = slice.end;
      }
      EXPECT_EQ(next, anchor);
    }
  }
}

TEST(Partition, ReplicatedAnchorIsWholeWhereItIsSeen) {
  MethodOptions options{.blocks = 3, .anchor_length = 50, .anchor_placement = AnchorPlacement::replicated};
  const auto partition = partition_of(300, 2, options, 3);
  EXPECT_EQ(partition.anchor_slice(0).length(), 0) << "rank 0 has block 0 alone";
  EXPECT_EQ(partition.anchor_slice(1).length(), 50);
  EXPECT_EQ(partition.anchor_slice(2).length(), 50);
}

TEST(Partition, AnchorHoldsTheQuestionBehindThePrefix) {
  std::vector<std::int32_t> context(100);
  std::iota(context.begin(), context.end(), 0);
  const std::vector<std::int32_t> query = {1000, 1001, 1002};
  const auto with = partition_of(100, 3, {.blocks = 4, .anchor_length = 10, .query_insert = 2}, 2);
  EXPECT_EQ(anchor_tokens(with, context, query), (std::vector{0, 1, 1000, 1001, 1002, 2, 3, 4, 5, 6}));
  EXPECT_EQ(with.anchor_context_tokens(), 7);
  EXPECT_EQ(with.blocks[0].passing, 3) << "25 / 8";
  const auto without = partition_of(100, 3, {.blocks = 4, .anchor_length = 24, .anchor_query = false}, 2);
  EXPECT_EQ(anchor_tokens(without, context, query).size(), 24U);
  EXPECT_EQ(anchor_tokens(without, context, query)[5], 5);
  EXPECT_EQ(without.blocks[0].passing, 1) << "one context token is not in the anchor";
}

TEST(Partition, ShortDocumentsGetFewerBlocks) {
  EXPECT_EQ(partition_of(4000, 20, {}, 4).block_count(), 8);
  const auto four = partition_of(120, 20, {}, 4);
  EXPECT_EQ(four.block_count(), 4);
  EXPECT_EQ(four.method, Method::apb);
  const auto one = partition_of(30, 20, {}, 4);
  EXPECT_EQ(one.block_count(), 1);
  EXPECT_EQ(one.method, Method::full);
  EXPECT_EQ(one.ranks_used(), 1);
  EXPECT_FALSE(one.has_exchange());
  EXPECT_EQ(partition_of(1, 1, {}, 3).block_count(), 1);
}

TEST(Partition, AutomaticBlocksKeepTheCutOnOtherRanks) {
  for (const std::int64_t context : {5, 11, 70, 333, 5000}) {
    const auto expected = partition_of(context, 3, {}, 6, 2);
    for (const int ranks : {1, 2, 3, 4, 6, 12}) {
      const auto partition = partition_of(context, 3, {.automatic_blocks = 12}, ranks, 2);
      ASSERT_EQ(partition.block_count(), expected.block_count()) << context << " tokens on " << ranks << " ranks";
      EXPECT_EQ(partition.anchor_length, expected.anchor_length);
      EXPECT_EQ(partition.passing_length, expected.passing_length);
      EXPECT_EQ(partition.method, expected.method);
    }
  }
}

TEST(Partition, WhatTheUserGaveAndCannotFitIsNamed) {
  EXPECT_NE(failure_of(9, 1, {.blocks = 8, .anchor_length = 0}, 2).find("9 tokens cannot be cut into 8 blocks"),
            std::string::npos);
  EXPECT_NE(failure_of(400, 20, {.blocks = 8, .anchor_length = 51}, 2).find("anchor of 51 tokens"), std::string::npos);
  EXPECT_NE(failure_of(400, 20, {.anchor_length = 19}, 2).find("at least 20"), std::string::npos);
  EXPECT_NE(failure_of(400, 20, {.anchor_length = 30, .query_insert = 11}, 2).find("at least 31"), std::string::npos);
  EXPECT_NE(failure_of(60, 20, {.anchor_length = 64}, 2).find("anchor of 64"), std::string::npos);
  EXPECT_EQ(failure_of(400, 20, {.anchor_length = 150}, 2), "") << "two blocks of 200 hold it";
  EXPECT_EQ(failure_of(8, 1, {.blocks = 8, .anchor_length = 0}, 2), "") << "blocks of one token";
}

TEST(Partition, FullPassesEverythingOnInZigzagChunks) {
  EXPECT_EQ(partition_of(1000, 5, {.method = Method::full}, 1).block_count(), 1);
  const auto partition = partition_of(1001, 5, {.method = Method::full}, 3);
  EXPECT_EQ(partition.block_count(), 6);
  EXPECT_EQ(partition.anchor_length, 0);
  for (const Block& block : partition.blocks) {
    EXPECT_EQ(block.passing, &block == &partition.blocks.back() ? 0 : block.length());
  }
}

TEST(Partition, SlotsHoldWhatBlocksPass) {
  const auto partition = partition_of(1003, 5, {.blocks = 4, .anchor_length = 40, .passing_length = 1000}, 2);
  for (const Block& block : partition.blocks) EXPECT_LE(block.passing, partition.passing_capacity);
  EXPECT_EQ(partition.passing_capacity, 256) << "a block of 251";
  EXPECT_EQ(partition.blocks[0].passing, 251 - 35);
  EXPECT_EQ(partition.blocks[1].passing, 251);
}

}  // namespace
}  // namespace apb
