#include "reference.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "compare.hpp"
#include "error.hpp"

namespace apb::reference {
namespace {

using Tokens = std::vector<std::int32_t>;

constexpr double tolerance = 1e-12;

Tokens random_tokens(int count, unsigned seed) {
  std::mt19937 generator(seed);
  Tokens tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(static_cast<std::int32_t>(generator() % 256));
  return tokens;
}

void expect_equal(const ReferenceResult& actual, const ReferenceResult& expected) {
  EXPECT_EQ(actual.tokens, expected.tokens);
  ASSERT_EQ(actual.logits.size(), expected.logits.size());
  for (std::size_t t = 0; t < expected.logits.size(); ++t) {
    EXPECT_CLOSE(actual.logits[t], expected.logits[t], tolerance) << "token " << t;
  }
}

double distance_from_dense(const TinyModel& model, const Tokens& context, const Tokens& query,
                           const MethodOptions& options) {
  return relative_error(simulate(model, context, query, options, 1).logits[0],
                        dense_forward(model, context, query, 1).logits[0]);
}

// ---- Where the method is dense attention ----

TEST(Reference, FullIsDense) {
  for (const TinyShape& shape : {TinyShape{}, TinyShape{.layers = 2, .tied = true}, TinyShape{.qkv_bias = true},
                                 tiny_families().at("qwen3_tied_yarn"), tiny_families().at("llama_llama3")}) {
    const TinyModel model = random_tiny_model(11, shape);
    for (const auto& [n, m] : {std::pair{1, 1}, {23, 5}, {41, 1}}) {
      SCOPED_TRACE(testing::Message() << n << " context and " << m << " query tokens");
      const Tokens context = random_tokens(n, 1);
      const Tokens query = random_tokens(m, 2);
      const MethodOptions ignored = {.full = true, .blocks = 3, .anchor_length = 7, .passing_length = 2};
      expect_equal(simulate(model, context, query, ignored, 4), dense_forward(model, context, query, 4));
    }
  }
}

TEST(Reference, OneBlockIsDense) {
  const TinyModel model = random_tiny_model(12);
  const Tokens context = random_tokens(29, 3);
  const Tokens query = random_tokens(4, 4);
  const MethodOptions options = {.blocks = 1, .anchor_length = 9, .passing_length = 3, .query_insert = 2};
  expect_equal(simulate(model, context, query, options, 5), dense_forward(model, context, query, 5));
}

TEST(Reference, PassingEverythingWithoutAnchorIsDense) {
  const TinyModel model = random_tiny_model(13);
  const Tokens context = random_tokens(37, 5);
  const Tokens query = random_tokens(3, 6);
  for (const int blocks : {2, 3, 4, 8, 20}) {  // 20: blocks of 2, and an empty last one
    SCOPED_TRACE(blocks);
    const int block_length = (37 + blocks - 1) / blocks;
    const MethodOptions exact = {.blocks = blocks, .passing_length = block_length};
    expect_equal(simulate(model, context, query, exact, 3), dense_forward(model, context, query, 3));
    const MethodOptions one_short = {.blocks = blocks, .passing_length = block_length - 1};
    EXPECT_GT(distance_from_dense(model, context, query, one_short), 1e-6);
  }
}

TEST(Reference, WholeFirstBlockAsAnchorIsDenseForTwoBlocks) {
  const TinyModel model = random_tiny_model(14);
  const Tokens context = random_tokens(31, 7);
  const Tokens query = random_tokens(5, 8);
  const MethodOptions options = {.blocks = 2, .anchor_length = 16, .anchor_query = false};
  expect_equal(simulate(model, context, query, options, 3), dense_forward(model, context, query, 3));
}

TEST(Reference, OneLayerIsDenseWhateverTheOptions) {
  const TinyModel model = random_tiny_model(15, {.layers = 1});
  const Tokens context = random_tokens(43, 9);
  const Tokens query = random_tokens(3, 10);
  const MethodOptions options = {.blocks = 4, .anchor_length = 7, .passing_length = 2, .query_insert = 1};
  const auto result = simulate(model, context, query, options, 4);
  expect_equal(result, dense_forward(model, context, query, 4));
  for (const auto& block : result.positions.at(0)) EXPECT_EQ(block, std::vector<std::vector<int>>(2));
}

// ---- The method written a second time: one sequence of anchor, context, query and generated rows, and a mask ----

struct Case {
  int n;
  int m;
  MethodOptions options;
};

struct MaskedMethod {
  const Case& setting;
  const ReferenceResult& result;
  int block_length = (setting.n + setting.options.blocks - 1) / setting.options.blocks;

  bool visible(int layer, int kv_head, int row, int column) const {
    const int a = setting.options.anchor_length;
    if (column > row) return false;
    if (row < a) return true;
    const int position = row - a;
    if (position >= setting.n) return column >= a;
    const int block = position / block_length;
    if (column < a) return block > 0;
    const int column_block = (column - a) / block_length;
    if (column_block == block) return true;
    const auto& passing = result.positions[static_cast<std::size_t>(layer)][static_cast<std::size_t>(column_block)]
                                          [static_cast<std::size_t>(kv_head)];
    return std::find(passing.begin(), passing.end(), column - a) != passing.end();
  }
};

void expect_equal_to_mask(const TinyModel& model, const Case& setting) {
  const auto& options = setting.options;
  const Tokens context = random_tokens(setting.n, 21);
  const Tokens query = random_tokens(setting.m, 22);
  const auto result = simulate(model, context, query, options, 3);

  Tokens rows;
  std::vector<int> positions;
  for (int i = 0; i < options.anchor_length; ++i) {
    const int in_query = i - options.query_insert;
    const bool from_query = options.anchor_query && in_query >= 0 && in_query < setting.m;
    const bool after_query = options.anchor_query && in_query >= setting.m;
    rows.push_back(from_query ? query.at(static_cast<std::size_t>(in_query))
                              : context.at(static_cast<std::size_t>(after_query ? i - setting.m : i)));
    positions.push_back(i);
  }
  for (const auto& part : {context, query, result.tokens}) rows.insert(rows.end(), part.begin(), part.end());
  while (positions.size() < rows.size())
    positions.push_back(static_cast<int>(positions.size()) - options.anchor_length);

  const MaskedMethod mask{setting, result};
  const auto visible = [&](int layer, int kv_head, std::size_t row, std::size_t column) {
    return mask.visible(layer, kv_head, static_cast<int>(row), static_cast<int>(column));
  };
  for (std::size_t t = 0; t < result.tokens.size(); ++t) {
    const std::size_t count = rows.size() - result.tokens.size() + t;
    const auto logits = masked_forward(model, std::span(rows).first(count), positions, visible);
    EXPECT_CLOSE(result.logits[t], logits, tolerance) << "token " << t;
  }
}

TEST(Reference, BlocksEqualOneMaskedSequence) {
  const TinyModel model = random_tiny_model(16);
  const std::vector<Case> cases = {
      {37, 3, {.blocks = 3, .anchor_length = 7, .passing_length = 3, .query_insert = 2}},
      {41, 2, {.blocks = 4, .anchor_length = 11, .passing_length = 5, .compressor = Compressor::query_similarity}},
      {26, 5, {.blocks = 2, .anchor_length = 6, .query_insert = 1}},
      {33, 1, {.blocks = 5, .passing_length = 4, .compressor = Compressor::random, .seed = 3}},
      {35, 4, {.blocks = 3, .anchor_length = 5, .passing_length = 2, .anchor_query = false}},
      {35, 4, {.blocks = 4, .anchor_length = 9, .anchor_query = false}},
      {38, 3, {.blocks = 4, .anchor_length = 3, .passing_length = 40, .compressor = Compressor::recent}}};
  for (const auto& setting : cases) {
    SCOPED_TRACE(testing::Message() << setting.n << " tokens in " << setting.options.blocks << " blocks, anchor "
                                    << setting.options.anchor_length);
    expect_equal_to_mask(model, setting);
  }
}

// ---- Selection ----

TEST(Reference, MaxPoolTakesFiveAndStopsAtTheEnds) {
  EXPECT_EQ(max_pool(std::vector<double>{1, 0, 0, 7, 0, 0, 0, -5, 2}),
            (std::vector<double>{1, 7, 7, 7, 7, 7, 2, 2, 2}));
  EXPECT_EQ(max_pool(std::vector<double>{-3, -4}), (std::vector<double>{-3, -3}));
  EXPECT_TRUE(max_pool(std::vector<double>{}).empty());
}

TEST(Reference, FurtherQuestionOfExactAttentionIsAsIfAskedAlone) {
  const TinyModel model = random_tiny_model(21);
  const Tokens context = random_tokens(31, 1);
  const Tokens first = random_tokens(4, 2);
  const Tokens further = random_tokens(6, 3);
  expect_equal(simulate_further(model, context, first, further, {.full = true}, 3),
               dense_forward(model, context, further, 3));
}

TEST(Reference, SelectTopBreaksTiesDownwardsAndSortsByPosition) {
  const std::vector<double> scores = {9, 1, 5, 8, 5, 5, 2};
  EXPECT_EQ(select_top(scores, 0, 3), (std::vector<int>{0, 2, 3}));
  EXPECT_EQ(select_top(scores, 1, 3), (std::vector<int>{2, 3, 4}));
  EXPECT_EQ(select_top(scores, 5, 3), (std::vector<int>{5, 6}));
  EXPECT_TRUE(select_top(scores, 7, 3).empty());
  EXPECT_TRUE(select_top(scores, 0, 0).empty());
}

TEST(Selection, MarginIsTheGapAtTheCut) {
  const std::vector<double> scores = {9, 4, -8, 6, 4};
  EXPECT_DOUBLE_EQ(margin(scores, 0, 2), (6.0 - 4.0) / 9.0);
  EXPECT_DOUBLE_EQ(margin(scores, 1, 3), (4.0 + 8.0) / 8.0);
  EXPECT_TRUE(std::isinf(margin(scores, 0, 3))) << "equal scores";
  EXPECT_TRUE(std::isinf(margin(scores, 2, 3))) << "all taken";
}

// For token 10 + 5v the two heads have keys v and -v at dimension 1, values v and -v at dimension 2 and queries v at
// dimension 1; the inner rows of the retaining heads add them up to v and -v. Normalisation changes nothing, as
// every embedding has a mean square of 1.
TinyModel readable_model(double rope_theta) {
  TinyModel model = random_tiny_model(0, {.layers = 2,
                                          .hidden = 4,
                                          .heads = 2,
                                          .kv_heads = 2,
                                          .head_dim = 4,
                                          .intermediate = 1,
                                          .vocabulary = 21,
                                          .retaining_inner = 2,
                                          .rope_theta = rope_theta,
                                          .rms_eps = 0.0});
  for (auto& [name, values] : model.tensors) {
    std::fill(values.begin(), values.end(), name.ends_with("norm.weight") ? 1.0F : 0.0F);
  }
  auto& embedding = model.tensors["model.embed_tokens.weight"];
  for (std::size_t token = 0; token < 21; ++token) {
    const float v = (static_cast<float>(token) - 10.0F) / 5.0F;
    embedding[token * 4] = v;
    embedding[token * 4 + 1] = std::sqrt(4.0F - v * v);
  }
  for (int layer = 0; layer < 2; ++layer) {
    const auto weight = [&](const std::string& name) -> std::vector<float>& {
      return model.tensors.at(layer_tensor(layer, "self_attn." + name + ".weight"));
    };
    weight("q_proj")[1 * 4] = weight("q_proj")[5 * 4] = 1.0F;
    weight("k_proj")[1 * 4] = 1.0F;
    weight("k_proj")[5 * 4] = -1.0F;
    weight("v_proj")[2 * 4] = 1.0F;
    weight("v_proj")[6 * 4] = -1.0F;
    const std::vector<std::size_t> query_at = {1, 5}, key_at = {8 + 1, 8 + 5}, value_at = {16 + 2, 16 + 6};
    for (std::size_t head = 0; head < 2; ++head) {
      float* row = weight("fc1").data() + 24 * head;
      row[query_at[head]] = head == 0 ? 0.4F : -0.4F;
      row[key_at[head]] = 0.4F;
      row[value_at[head]] = 0.2F;
    }
    weight("fc2")[0] = weight("fc2")[3] = 1.0F;
  }
  return model;
}

const Tokens readable_context = {5,  13, 15, 8, 7, 9, 12, 11, 4,   // block 0; the anchor holds the first 3
                                 10, 6,  14, 5, 9, 8, 16, 7,  11,  // block 1
                                 12, 8,  9,  4, 6, 7, 5};          // block 2
const Tokens readable_query = {20, 5};

TEST(Reference, SelectsWhatAHandWorkedExampleSays) {
  MethodOptions options = {.blocks = 3, .anchor_length = 5, .passing_length = 4, .query_insert = 1};
  const std::vector<std::vector<std::vector<int>>> expected = {
      {{3, 4, 5, 6}, {3, 6, 7, 8}}, {{13, 14, 15, 16}, {10, 11, 12, 13}}, {{}, {}}};
  const std::vector<std::vector<std::vector<int>>> nothing = {{{}, {}}, {{}, {}}, {{}, {}}};

  // Retaining heads read queries and keys before RoPE: with theta 1 every dimension rotates fast.
  options.compressor = Compressor::retaining_heads;
  auto result = simulate(readable_model(1.0), readable_context, readable_query, options, 1);
  EXPECT_EQ(result.positions.at(0), expected);
  EXPECT_EQ(result.positions.at(1), nothing);

  // With a huge theta dimension 1 does not rotate, and the mean query there is positive.
  options.compressor = Compressor::query_similarity;
  result = simulate(readable_model(1e30), readable_context, readable_query, options, 1);
  EXPECT_EQ(result.positions.at(0), expected);
  EXPECT_EQ(result.positions.at(1), nothing);
}

TEST(Reference, QuerySimilarityIsTakenAfterRope) {
  const MethodOptions options = {.blocks = 3, .passing_length = 4, .compressor = Compressor::query_similarity};
  const auto result = simulate(readable_model(1.0), readable_context, readable_query, options, 1);
  const auto value = [](std::int32_t token) { return (token - 10.0) / 5.0; };
  for (int block = 0; block < 2; ++block) {
    std::vector<double> scores;
    for (int position = 9 * block; position < 9 * block + 9; ++position) {
      double score = 0.0;
      for (int j = 0; j < 2; ++j) {
        score += value(readable_query[static_cast<std::size_t>(j)]) *
                 value(readable_context[static_cast<std::size_t>(position)]) * std::cos(25 + j - position);
      }
      scores.push_back(score);
    }
    auto expected = select_top(max_pool(scores), 0, 4);
    for (int& position : expected) position += 9 * block;
    EXPECT_EQ(result.positions.at(0).at(static_cast<std::size_t>(block)).at(0), expected) << "block " << block;
  }
}

TEST(Reference, QuerySimilarityReadsTheQueriesOfItsOwnGroup) {
  TinyModel model = random_tiny_model(23);
  const Tokens context = random_tokens(31, 41);
  const Tokens query = random_tokens(3, 42);
  const MethodOptions options = {.blocks = 2, .passing_length = 4, .compressor = Compressor::query_similarity};
  const auto before = simulate(model, context, query, options, 1).positions.at(0).at(0);
  auto& weight = model.tensors.at(layer_tensor(0, "self_attn.q_proj.weight"));
  std::fill(weight.begin() + static_cast<std::ptrdiff_t>(weight.size() / 2), weight.end(), 0.0F);
  const auto after = simulate(model, context, query, options, 1).positions.at(0).at(0);
  EXPECT_EQ(after.at(0), before.at(0));
  EXPECT_EQ(after.at(1), (std::vector<int>{0, 1, 2, 3}));  // all scores are zero
}

TEST(Reference, RecentTakesTheEndOfEveryBlock) {
  const MethodOptions options = {
      .blocks = 3, .anchor_length = 5, .passing_length = 2, .compressor = Compressor::recent};
  const auto result = simulate(readable_model(1e4), readable_context, readable_query, options, 1);
  const std::vector<std::vector<std::vector<int>>> expected = {{{7, 8}, {7, 8}}, {{16, 17}, {16, 17}}, {{}, {}}};
  EXPECT_EQ(result.positions.at(0), expected);
}

TEST(Reference, RandomScoresHaveTheirPublishedValues) {
  EXPECT_EQ(random_score(0, 0, 0, 0, 0), 0x78ae5ap-24);
  EXPECT_EQ(random_score(1, 2, 3, 4, 5), 0x90bb69p-24);
  EXPECT_EQ(random_score(42, 7, 1, 0, 131071), 0xbe4f0dp-24);
  EXPECT_EQ(random_score(0xFFFFFFFFFFFFFFFFU, 3, 27, 7, 999), 0x64264ap-24);
}

TEST(Reference, RandomSelectionDependsOnEveryInput) {
  const TinyModel model = random_tiny_model(17);
  const Tokens context = random_tokens(53, 31);
  const Tokens query = random_tokens(3, 32);
  MethodOptions options = {.blocks = 3, .passing_length = 6, .compressor = Compressor::random, .seed = 5};
  const auto first = simulate(model, context, query, options, 1).positions;
  std::set<std::vector<int>> distinct;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (std::size_t block = 0; block < 2; ++block) {
      for (std::vector<int> positions : first[layer][block]) {
        for (int& position : positions) position -= 18 * static_cast<int>(block);
        distinct.insert(positions);
      }
    }
  }
  EXPECT_EQ(distinct.size(), 8U);
  options.seed = 6;
  EXPECT_NE(simulate(model, context, query, options, 1).positions, first);
  options.seed = 5;
  options.document = 1;
  EXPECT_NE(simulate(model, context, query, options, 1).positions, first);
}

TEST(Reference, FirstBlockNeverPassesWhatTheAnchorHolds) {
  const TinyModel model = random_tiny_model(18);
  const Tokens context = random_tokens(47, 33);
  const Tokens query = random_tokens(4, 34);
  for (const bool anchor_query : {true, false}) {
    const MethodOptions options = {
        .blocks = 3, .anchor_length = 11, .passing_length = 16, .query_insert = 2, .anchor_query = anchor_query};
    const auto result = simulate(model, context, query, options, 1);
    const int held = anchor_query ? 7 : 11;
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (const auto& positions : result.positions.at(layer).at(0)) {
        EXPECT_EQ(positions.front(), held);
        EXPECT_EQ(positions.size(), static_cast<std::size_t>(16 - held));
      }
      for (const auto& positions : result.positions.at(layer).at(1)) EXPECT_EQ(positions.size(), 16U);
    }
  }
}

// ---- Decoding and limits ----

TEST(Reference, GreedyTokensVaryAndStopAtEos) {
  for (const bool tied : {false, true}) {
    const TinyModel model = random_tiny_model(19, {.tied = tied});
    const Tokens context = random_tokens(21, 35);
    const Tokens query = random_tokens(3, 36);
    const auto result = simulate(model, context, query, {.full = true}, 8);
    ASSERT_EQ(result.tokens.size(), 8U);
    EXPECT_GE(std::set<int>(result.tokens.begin(), result.tokens.end()).size(), 4U);

    const int eos = result.tokens[2];
    const auto first = std::find(result.tokens.begin(), result.tokens.end(), eos) - result.tokens.begin();
    const auto stopped = simulate(model, context, query, {.full = true}, 8, eos);
    EXPECT_EQ(stopped.tokens, Tokens(result.tokens.begin(), result.tokens.begin() + first + 1));
    expect_equal(stopped, dense_forward(model, context, query, 8, eos));
  }
}

TEST(Reference, RefusesAnAnchorThatDoesNotFit) {
  const TinyModel model = random_tiny_model(20, {.layers = 1});
  const Tokens context = random_tokens(20, 37);
  const Tokens query = random_tokens(4, 38);
  const auto run = [&](const MethodOptions& options) { return simulate(model, context, query, options, 1); };
  EXPECT_NO_THROW(run({.blocks = 2, .anchor_length = 6, .query_insert = 2}));
  EXPECT_THROW(run({.blocks = 2, .anchor_length = 5, .query_insert = 2}), Error);
  EXPECT_THROW(run({.blocks = 2, .anchor_length = 11}), Error);
  EXPECT_NO_THROW(run({.blocks = 2, .anchor_length = 1, .anchor_query = false}));
  EXPECT_THROW(simulate(model, {}, query, {}, 1), Error);
  EXPECT_THROW(simulate(model, context, {}, {}, 1), Error);
}

}  // namespace
}  // namespace apb::reference
