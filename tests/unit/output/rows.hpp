// Rows with made-up contents that keep all the rules of a results file.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "expect_error.hpp"
#include "output/results.hpp"
#include "phases.hpp"
#include "temporary_folder.hpp"

namespace apb::testing_output {

constexpr std::int64_t vocabulary = 11;
constexpr std::size_t phases = phase_names.size();

inline RunInfo make_info() {
  return {.version = "0.1.0",
          .command_line = "apb run --model Modell-Größe",
          .options = R"({"blocks": 3})",
          .model = "tiny",
          .ranks = 3,
          .hosts = {"node1", "node1", "node2"},
          .devices = {"cpu", "cpu", "cpu"},
          .dtype = "bf16",
          .start_time = "2025-01-02T03:04:05Z"};
}

inline ResultRow failed_row(const std::string& id, const std::string& message = "context_tokens: 7 is no list") {
  ResultRow row;
  row.id = id;
  row.key = "key-of-" + id;
  row.message = message;
  return row;
}

/// A row that was answered, all of it drawn from `seed`.
inline ResultRow ok_row(const std::string& id, unsigned seed) {
  std::mt19937 random(seed);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const auto real = [&] { return std::uniform_real_distribution<double>(0.125, 1)(random); };
  ResultRow row;
  row.id = id;
  row.key = "key-of-" + id;
  row.ok = true;
  row.context_length = draw(100, 1000);
  row.query_length = draw(1, 30);
  row.metadata = R"({"answer": "Käse", "level": )" + std::to_string(draw(0, 9)) + "}";
  row.method = "apb";
  row.ranks_used = draw(1, 4);
  row.blocks = row.ranks_used * draw(1, 3);
  row.anchor_length = draw(1, 40);
  row.passing_length = draw(1, 5);
  row.text = "answer " + std::to_string(seed) + ": naïve 東京 🙂\n\"x\"";
  row.finish_reason = draw(0, 1) == 0 ? "stop" : "length";
  for (int i = draw(1, 7); i > 0; --i) {
    row.token_ids.push_back(draw(0, static_cast<int>(vocabulary) - 1));
    for (int token = 0; token < vocabulary; ++token) {
      row.logits.push_back(token == row.token_ids.back() ? 20.0F : static_cast<float>(real()));
    }
  }
  row.prefill_seconds = real();
  row.ttft_seconds = row.prefill_seconds + real();
  row.decode_seconds = real();
  for (int rank = 0; rank < row.ranks_used; ++rank) {
    std::vector<double> times(phases);
    for (double& time : times) time = real();
    const double sum = std::accumulate(times.begin(), times.end(), 0.0);
    for (const double time : times) row.phase_seconds.push_back(time * row.prefill_seconds / sum);
  }
  for (int rank = 0; rank < row.ranks_used; ++rank) {
    row.pairs.push_back(draw(1, 1 << 30));
    row.bytes_sent.push_back(draw(0, 1 << 30));
  }
  row.full_pairs = draw(1, 1 << 30);
  for (int rank = 0; rank < row.ranks_used; ++rank) row.message_seconds.push_back(real());
  row.selection = {.layers = 2, .blocks = row.blocks, .kv_heads = 2, .p = row.passing_length, .positions = {}};
  row.selection.positions.resize(static_cast<std::size_t>(2 * row.blocks * 2 * row.passing_length));
  for (auto& position : row.selection.positions) position = draw(0, 99);
  if (draw(0, 1) == 0) {
    row.drift = {.largest_logit_difference = static_cast<float>(real()), .first_differing_token = draw(-1, 2)};
  }
  return row;
}

constexpr SavedArrays everything = {.vocabulary = vocabulary, .selection = true};

/// A row as a file without the optional arrays gives it back.
inline ResultRow without_arrays(ResultRow row) {
  row.logits.clear();
  row.selection = {};
  return row;
}

/// All fields but the selection, which a file pads.
inline void expect_same(const ResultRow& got, const ResultRow& expected) {
  EXPECT_EQ(got.id, expected.id);
  EXPECT_EQ(got.key, expected.key);
  EXPECT_EQ(got.ok, expected.ok);
  EXPECT_EQ(got.message, expected.message);
  EXPECT_EQ(got.context_length, expected.context_length);
  EXPECT_EQ(got.query_length, expected.query_length);
  EXPECT_EQ(got.metadata, expected.metadata);
  EXPECT_EQ(got.method, expected.method);
  EXPECT_EQ(got.blocks, expected.blocks);
  EXPECT_EQ(got.anchor_length, expected.anchor_length);
  EXPECT_EQ(got.passing_length, expected.passing_length);
  EXPECT_EQ(got.ranks_used, expected.ranks_used);
  EXPECT_EQ(got.text, expected.text);
  EXPECT_EQ(got.token_ids, expected.token_ids);
  EXPECT_EQ(got.finish_reason, expected.finish_reason);
  EXPECT_EQ(got.logits, expected.logits);
  EXPECT_EQ(got.ttft_seconds, expected.ttft_seconds);
  EXPECT_EQ(got.decode_seconds, expected.decode_seconds);
  EXPECT_EQ(got.prefill_seconds, expected.prefill_seconds);
  EXPECT_EQ(got.phase_seconds, expected.phase_seconds);
  EXPECT_EQ(got.drift, expected.drift);
  EXPECT_EQ(got.pairs, expected.pairs);
  EXPECT_EQ(got.bytes_sent, expected.bytes_sent);
  EXPECT_EQ(got.full_pairs, expected.full_pairs);
  EXPECT_EQ(got.message_seconds, expected.message_seconds);
}

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<std::string> ids_of(const Results& results) {
  std::vector<std::string> ids;
  for (const auto& row : results.rows) ids.push_back(row.id);
  return ids;
}

}  // namespace apb::testing_output
