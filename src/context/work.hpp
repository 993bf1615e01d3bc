// How much a rank computes and moves for a document, counted from the partition: what times are held against.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/config.hpp"
#include "phases.hpp"

namespace apb {

/// Floating-point operations and bytes of one phase.
struct Work {
  double flops = 0.0;
  double bytes = 0.0;
};

using PhaseWork = std::array<Work, phase_count>;

/// Keys that all rows of a block see before their own block.
std::int64_t seen_before(const Partition& partition, int number);

/// What one rank does in the prefill. Counted are the products with weights (2 a weight and row), in the last layer of
/// context rows only their keys and values, of the last row the head on rank 0; and the attention (4 * heads * head_dim
/// for a row and a key that it sees). Bytes are the least that has to move: a phase's weights once a layer, the rows
/// that it reads and writes of the residual stream (f32), of Q, K, V and of the attention's output, and the keys and
/// values that it reads, once for each block of rows. Phases that do neither are 0. `element` is the bytes of one
/// number in the compute type.
PhaseWork prefill_work(const ModelConfig& config, const Partition& partition, int rank, std::size_t element);

/// The same for the decoding of `tokens` tokens after the prefill, all together.
PhaseWork decode_work(const ModelConfig& config, const Partition& partition, int rank, int tokens, std::size_t element);

/// Operations of the prefill over all ranks, with what ranks do in common (the query rows; a replicated anchor) counted
/// once: the same for any number of ranks.
double prefill_flops(const ModelConfig& config, const Partition& partition);

/// Pairs of a row and a key that it sees which a rank computes in the prefill, over all layers and query heads, and
/// what exact attention needs over all ranks.
double prefill_pairs(const ModelConfig& config, const Partition& partition, int rank);
double full_prefill_pairs(const ModelConfig& config, const DocumentLengths& lengths);

/// Bytes that each rank sends between device memories in the prefill, to all others together.
double prefill_bytes_sent(const Device& device, const ModelConfig& config, const Partition& partition);

/// The last three, of every rank that owns a block.
struct PrefillCounts {
  std::vector<double> pairs;       // [ranks_used]
  std::vector<double> bytes_sent;  // [ranks_used]
  double full_pairs = 0.0;
};
PrefillCounts count_prefill(const Device& device, const ModelConfig& config, const Partition& partition);

}  // namespace apb
