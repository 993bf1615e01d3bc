// The reference that the program is tested against: a transformer in double precision, and the method simulated
// block by block in one process. Plain loops, one token at a time; slow and easy to check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "tiny_model.hpp"

namespace apb::reference {

enum class Compressor { retaining_heads, query_similarity, random, recent };

/// The method's settings. `full` ignores all the others and attends to everything.
struct MethodOptions {
  bool full = false;
  int blocks = 1;
  int anchor_length = 0;   // 0: none
  int passing_length = 0;  // entries per block and KV head
  int query_insert = 0;    // context tokens of the anchor before the query
  bool anchor_query = true;
  Compressor compressor = Compressor::retaining_heads;
  std::uint64_t seed = 0;      // of the random compressor
  std::uint64_t document = 0;  // number of the document, for the random compressor
};

struct ReferenceResult {
  std::vector<std::int32_t> tokens;         // generated, the stop token included
  std::vector<std::vector<double>> logits;  // [generated token][vocabulary]
  /// Context positions that a block passes on, ascending: [layer][block][kv_head]. None for the last block and
  /// in the last layer. Empty from dense_forward.
  std::vector<std::vector<std::vector<std::vector<int>>>> positions;
  /// The least margin() of all selections: how far rounding would have to go to change one.
  double selection_margin = std::numeric_limits<double>::infinity();
};

/// The method, block by block, then greedy decoding with a K/V cache. Stops after `max_new_tokens` or after the
/// token `eos` (-1: never). Throws an Error if context or query is empty or the anchor does not fit.
ReferenceResult simulate(const TinyModel& model, std::span<const std::int32_t> context,
                         std::span<const std::int32_t> query, const MethodOptions& options, int max_new_tokens,
                         int eos = -1);

/// What `further` is answered after `query` was asked: the context's cache, which `query` shaped, stays.
ReferenceResult simulate_further(const TinyModel& model, std::span<const std::int32_t> context,
                                 std::span<const std::int32_t> query, std::span<const std::int32_t> further,
                                 const MethodOptions& options, int max_new_tokens, int eos = -1);

/// The same model with plain causal attention over context, query and generated tokens. No cache: every token is
/// computed from the whole sequence before it.
ReferenceResult dense_forward(const TinyModel& model, std::span<const std::int32_t> context,
                              std::span<const std::int32_t> query, int max_new_tokens, int eos = -1);

/// Whether `row` attends to `column` (both index the sequence) in a layer, for the heads of a KV head.
using Visible = std::function<bool(int layer, int kv_head, std::size_t row, std::size_t column)>;

/// Logits [vocabulary] of the last row of a sequence whose attention is given by a mask. Any number of rows may
/// share a position. Every row must see at least one column.
std::vector<double> masked_forward(const TinyModel& model, std::span<const std::int32_t> tokens,
                                   std::span<const int> positions, const Visible& visible);

/// Score of a token under Compressor::random, in [0, 1).
double random_score(std::uint64_t seed, std::uint64_t document, int layer, int kv_head, int position);

/// Max-pooling with window 5 and stride 1; windows are cut off at both ends, so the length stays the same.
std::vector<double> max_pool(std::span<const double> scores);

/// Indices of the `count` highest scores (all, if there are fewer) among those from `first` on, ascending.
/// Ties go to the lower index.
std::vector<int> select_top(std::span<const double> scores, int first, int count);

/// Gap between the lowest score that select_top takes and the highest that it leaves, relative to the largest score;
/// infinite if it takes all, or if the two are equal (then their indices decide, whatever the rounding).
double margin(std::span<const double> scores, int first, int count);

}  // namespace apb::reference
