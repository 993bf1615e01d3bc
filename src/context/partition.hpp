// Who owns what of a document: blocks, anchor slices and slots. A pure value that knows every rank's share, made alike
// on all ranks from the lengths alone (docs/method.md, "Blocks" to "Slots").
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "options.hpp"

namespace apb {

/// Context tokens [begin, end), owned by `rank` as its own block number `index`.
struct Block {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  int rank = 0;
  int index = 0;
  int passing = 0;  // entries that it passes on per KV head, 0 for the last block

  int length() const { return static_cast<int>(end - begin); }
};

/// Rows [begin, end) of the anchor.
struct AnchorSlice {
  int begin = 0;
  int end = 0;

  int length() const { return end - begin; }
};

struct DocumentLengths {
  std::int64_t context = 0;  // n
  std::int64_t query = 0;    // m, of the first question
  std::int64_t prefix = 0;   // template tokens before the document; where the question goes in the anchor by default
  int max_new_tokens = 0;
  std::int64_t further_query = 0;  // the longest of further questions

  std::int64_t longest_query() const { return std::max(query, further_query); }
  /// Tokens of the longest question and its answer.
  int query_capacity() const { return static_cast<int>(longest_query()) + max_new_tokens; }
};

struct Partition {
  DocumentLengths lengths;
  int ranks = 1;  // R
  Method method = Method::apb;
  int anchor_length = 0;   // a
  int passing_length = 0;  // p
  int query_insert = 0;
  bool anchor_query = true;
  AnchorPlacement anchor_placement = AnchorPlacement::sharded;
  std::vector<Block> blocks{};  // in document order
  int anchor_capacity = 0;      // tokens of an anchor slot, a multiple of the tile
  int passing_capacity = 0;     // tokens of a passing slot, a multiple of the tile

  int block_count() const { return static_cast<int>(blocks.size()); }
  /// Ranks that own a block.
  int ranks_used() const;
  /// Blocks of a rank, in the order in which they were dealt.
  std::vector<int> blocks_of(int rank) const;
  /// The largest number of blocks that a rank owns: passing slots a rank has in the exchange.
  int blocks_per_rank() const;
  /// The largest number of context rows that a rank carries.
  std::int64_t most_rows() const;
  int last_rank() const { return blocks.back().rank; }
  /// Context tokens that the anchor holds: what block 0 need not pass on.
  int anchor_context_tokens() const;
  /// Rows of the anchor that a rank computes; with `replicated` all of it on every rank that has a block behind block
  /// 0.
  AnchorSlice anchor_slice(int rank) const;
  /// Every token before a block reaches it whole in the layer's all-gather (method full): nothing is scored.
  bool passes_everything() const { return method == Method::full; }
  /// Whether ranks exchange anything before attention.
  bool has_exchange() const;
  std::string describe() const;
};

/// Cuts a document for `ranks` ranks. Throws Error that names the values when what the user asked for cannot fit; what
/// was left to choose is chosen to fit, down to one block (method full).
Partition make_partition(const DocumentLengths& lengths, const MethodOptions& options, int ranks, int tile);

/// Tokens of the anchor: c[0, insert) ++ q ++ c[insert, a - m), or c[0, a) with the question left out.
std::vector<std::int32_t> anchor_tokens(const Partition& partition, std::span<const std::int32_t> context,
                                        std::span<const std::int32_t> query);

}  // namespace apb
