#include "context/partition.hpp"

#include <algorithm>

#include "error.hpp"

namespace apb {
namespace {

constexpr int longest_automatic = 8192;  // of anchor and passing length, as in the published runs

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

std::int64_t block_length(std::int64_t context, int blocks) { return (context + blocks - 1) / blocks; }

/// Blocks are dealt in rounds of R, every second round in reverse rank order.
int owner_of(int block, int ranks) {
  const int round = block / ranks;
  const int place = block % ranks;
  return round % 2 == 0 ? place : ranks - 1 - place;
}

int automatic_insert(const DocumentLengths& lengths, std::int64_t room) {
  return static_cast<int>(std::clamp<std::int64_t>(lengths.prefix, 0, std::max<std::int64_t>(room, 0)));
}

/// The question's share of the anchor: its tokens and what must stand before it.
struct AnchorNeeds {
  std::int64_t query = 0;
  std::int64_t insert = 0;
  std::int64_t shortest() const { return query + insert; }
};

AnchorNeeds anchor_needs(const DocumentLengths& lengths, const MethodOptions& options) {
  if (!options.anchor_query) return {};
  std::int64_t insert = options.query_insert.value_or(static_cast<int>(lengths.prefix));
  if (options.anchor_length && !options.query_insert) {
    insert = automatic_insert(lengths, *options.anchor_length - lengths.query);
  }
  return {lengths.query, insert};
}

/// Why the document cannot be cut into `blocks` blocks; empty when it can.
std::string misfit(const DocumentLengths& lengths, const MethodOptions& options, int blocks) {
  const std::int64_t length = block_length(lengths.context, blocks);
  if (blocks > 1 && length * (blocks - 1) >= lengths.context) {
    return fmt::format("a context of {} tokens cannot be cut into {} blocks of {}; use fewer --blocks", lengths.context,
                       blocks, length);
  }
  if (options.method != Method::apb || blocks == 1 || options.anchor_length == 0) return {};
  const std::int64_t shortest = anchor_needs(lengths, options).shortest();
  const std::int64_t anchor =
      options.anchor_length.value_or(static_cast<int>(std::min<std::int64_t>(length, longest_automatic)));
  if (anchor < shortest || anchor > length) {
    return fmt::format(
        "an anchor of {} tokens does not fit: it must hold at least {} (question {} + --query-insert {}) and at most "
        "{} "
        "(the block length of {} context tokens in {} blocks); change --anchor-length, --query-insert or --blocks",
        anchor, shortest, shortest == 0 ? 0 : lengths.query, anchor_needs(lengths, options).insert, length,
        lengths.context, blocks);
  }
  return {};
}

/// What an automatic choice begins at: two blocks a rank where they are dealt zigzag, so that all ranks have as much to
/// attend to.
int automatic_blocks(const MethodOptions& options, int ranks) {
  if (options.automatic_blocks) return *options.automatic_blocks;
  const bool contiguous = options.method == Method::star || options.method == Method::ulysses;
  const bool alone = ranks == 1 && options.method != Method::apb;
  return contiguous || alone ? ranks : 2 * ranks;
}

/// The number of blocks: the user's, or the largest of the automatic choice, its half, ... that fits. One block has no
/// anchor, so an anchor that the user asked for wants two.
int choose_blocks(const DocumentLengths& lengths, const MethodOptions& options, int ranks) {
  const bool wants_anchor =
      options.method == Method::apb && (options.anchor_length.value_or(0) > 0 || options.query_insert);
  const int fewest = options.blocks.value_or(wants_anchor ? 2 : 1);
  int blocks = options.blocks.value_or(automatic_blocks(options, ranks));
  while (blocks > fewest && !misfit(lengths, options, blocks).empty()) blocks = std::max(fewest, blocks / 2);
  const std::string why = misfit(lengths, options, blocks);
  if (!why.empty()) throw Error(why);
  return blocks;
}

void choose_anchor(Partition& partition, const MethodOptions& options) {
  const auto& lengths = partition.lengths;
  const AnchorNeeds needs = anchor_needs(lengths, options);
  const std::int64_t length = block_length(lengths.context, partition.block_count());
  const std::int64_t automatic =
      std::min({length, std::max(length / 4, 2 * needs.shortest()), std::int64_t{longest_automatic}});
  partition.anchor_length = options.anchor_length.value_or(static_cast<int>(std::max(automatic, needs.shortest())));
  partition.query_insert = partition.anchor_length == 0 ? 0 : static_cast<int>(needs.insert);
}

/// Star: the whole first block without the question.
void choose_star_anchor(Partition& partition) {
  partition.anchor_length = partition.blocks.front().length();
  partition.anchor_query = false;
}

void choose_passing(Partition& partition, const MethodOptions& options) {
  const std::int64_t length = block_length(partition.lengths.context, partition.block_count());
  const std::int64_t automatic = std::clamp<std::int64_t>(length / 8, 1, longest_automatic);
  partition.passing_length = options.passing_length.value_or(static_cast<int>(automatic));
}

void deal_blocks(Partition& partition, int count) {
  const auto& lengths = partition.lengths;
  const std::int64_t length = block_length(lengths.context, count);
  std::vector<int> dealt(static_cast<std::size_t>(partition.ranks), 0);
  for (int block = 0; block < count; ++block) {
    const int rank = owner_of(block, partition.ranks);
    partition.blocks.push_back({.begin = block * length,
                                .end = std::min(lengths.context, (block + 1) * length),
                                .rank = rank,
                                .index = dealt[static_cast<std::size_t>(rank)]++});
  }
}

void count_passing(Partition& partition) {
  for (int block = 0; block + 1 < partition.block_count(); ++block) {
    auto& own = partition.blocks[static_cast<std::size_t>(block)];
    const int excluded = block == 0 ? partition.anchor_context_tokens() : 0;
    own.passing =
        partition.passes_everything() ? own.length() : std::min(partition.passing_length, own.length() - excluded);
  }
}

}  // namespace

int Partition::ranks_used() const { return std::min(ranks, block_count()); }

std::vector<int> Partition::blocks_of(int rank) const {
  std::vector<int> own;
  for (int block = 0; block < block_count(); ++block) {
    if (blocks[static_cast<std::size_t>(block)].rank == rank) own.push_back(block);
  }
  return own;
}

int Partition::blocks_per_rank() const { return (block_count() + ranks - 1) / ranks; }

std::int64_t Partition::most_rows() const {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(ranks), 0);
  for (const Block& block : blocks) rows[static_cast<std::size_t>(block.rank)] += block.length();
  return *std::max_element(rows.begin(), rows.end());
}

int Partition::anchor_context_tokens() const {
  if (anchor_length == 0) return 0;
  return anchor_query ? anchor_length - static_cast<int>(lengths.query) : anchor_length;
}

AnchorSlice Partition::anchor_slice(int rank) const {
  if (anchor_length == 0) return {};
  if (anchor_placement == AnchorPlacement::replicated) {
    const auto own = blocks_of(rank);
    return own.empty() || own.back() == 0 ? AnchorSlice{} : AnchorSlice{0, anchor_length};
  }
  if (rank >= ranks_used()) return {};
  return {std::min(anchor_length, rank * anchor_capacity), std::min(anchor_length, (rank + 1) * anchor_capacity)};
}

bool Partition::has_exchange() const {
  const bool passes = std::any_of(blocks.begin(), blocks.end(), [](const Block& block) { return block.passing > 0; });
  return passes || (anchor_length > 0 && anchor_placement == AnchorPlacement::sharded);
}

std::string Partition::describe() const {
  return fmt::format("{} context + {} query tokens, method {}, {} blocks of {} on {} ranks, anchor {}, passing {}",
                     lengths.context, lengths.query, method_names.at(static_cast<std::size_t>(method)), block_count(),
                     blocks.front().length(), ranks_used(), anchor_length, passing_length);
}

Partition make_partition(const DocumentLengths& lengths, const MethodOptions& options, int ranks, int tile) {
  Partition partition{.lengths = lengths,
                      .ranks = ranks,
                      .method = options.method,
                      .anchor_query = options.anchor_query,
                      .anchor_placement = options.anchor_placement};
  const int count = choose_blocks(lengths, options, ranks);
  deal_blocks(partition, count);
  const bool approximate = options.method == Method::apb || options.method == Method::star;
  if (approximate && count == 1 && !options.blocks) partition.method = Method::full;
  if (count > 1 && partition.method == Method::star) choose_star_anchor(partition);
  if (count > 1 && partition.method == Method::apb) {
    choose_anchor(partition, options);
    choose_passing(partition, options);
  }
  count_passing(partition);

  const int slices = partition.anchor_placement == AnchorPlacement::sharded ? partition.ranks_used() : 1;
  partition.anchor_capacity = round_up((partition.anchor_length + slices - 1) / slices, tile);
  const auto most = std::max_element(partition.blocks.begin(), partition.blocks.end(),
                                     [](const Block& a, const Block& b) { return a.passing < b.passing; });
  partition.passing_capacity = round_up(most->passing, tile);
  return partition;
}

std::vector<std::int32_t> anchor_tokens(const Partition& partition, std::span<const std::int32_t> context,
                                        std::span<const std::int32_t> query) {
  const auto length = static_cast<std::size_t>(partition.anchor_length);
  if (!partition.anchor_query) return {context.begin(), context.begin() + static_cast<std::ptrdiff_t>(length)};
  std::vector<std::int32_t> tokens;
  tokens.reserve(length);
  if (length == 0) return tokens;
  const auto insert = context.begin() + partition.query_insert;
  tokens.insert(tokens.end(), context.begin(), insert);
  tokens.insert(tokens.end(), query.begin(), query.end());
  tokens.insert(tokens.end(), insert, context.begin() + partition.anchor_context_tokens());
  return tokens;
}

}  // namespace apb
