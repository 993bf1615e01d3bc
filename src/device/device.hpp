// What a rank's accelerator can do: memory, and the operations that the layer loop is made of.
//
// Asynchronous by contract. An operation is enqueued and runs after all that were enqueued before it; the host may read
// a result only after synchronize(), which nobody calls inside the layer loop. Scalars and views are taken by value;
// the memory behind a view or a span (slot tables) stays valid and unchanged until the operation has run. Lengths and
// counts are the host's own, never read from the device. Views must have the shapes stated: a wrong one throws
// std::invalid_argument.
//
// Types: activations are compute_type() (bf16 or f32) unless stated otherwise, arithmetic is float32; the residual
// stream, scores, log-sum-exp and partial outputs are f32.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/view.hpp"
#include "phases.hpp"

namespace apb {

class Transfer;

/// Heads of an attention layer; query head h belongs to KV head h / (heads / kv_heads).
struct HeadShape {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;

  int query_columns() const { return heads * head_dim; }
  int qkv_columns() const { return (heads + 2 * kv_heads) * head_dim; }
};

/// Room for the keys (after RoPE) and values of `capacity` tokens, all KV heads, in the device's own layout: only the
/// device looks inside. `capacity` is a multiple of Device::tile().
struct Slot {
  std::byte* data = nullptr;
  int capacity = 0;
};

/// RMS norms of each head of Q and of K before RoPE: weights f32 [1, head_dim], both empty where the model has none.
struct HeadNorms {
  ConstView query{};
  ConstView key{};
  float epsilon = 0.0F;
};

/// The first `count` tokens of a slot.
struct SlotRange {
  Slot slot;
  int count = 0;
};

/// A weight matrix [outputs, inputs], and its bias where it has one, in the device's own layout.
class Weight {
 public:
  Weight(std::int64_t outputs, std::int64_t inputs, std::size_t bytes)
      : outputs_(outputs), inputs_(inputs), bytes_(bytes) {}
  virtual ~Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;
  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::int64_t outputs_;
  std::int64_t inputs_;
  std::size_t bytes_;
};

struct WeightShape {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  bool bias = false;
};

/// A weight whose values are still to come, from this rank or from another.
struct ReservedWeight {
  std::unique_ptr<Weight> weight;
  bool filled_here = false;
};

/// softmax(Q K^T / sqrt(head_dim)) V over the keys that a row sees: all of `visible`, then `causal` up to itself.
struct AttentionArguments {
  HeadShape shape{};
  ConstView query{};                     // [rows, heads * head_dim], after RoPE
  std::span<const SlotRange> visible{};  // seen by every row; entries may be empty
  SlotRange causal{};                    // row i sees its first min(count, causal_before + i + 1) tokens
  std::int64_t causal_before = 0;
  View output{};       // [rows, heads * head_dim], compute type or f32; 0 where a row sees no key
  View log_sum_exp{};  // [rows, heads] f32 natural logarithm, -inf where a row sees no key; empty: not wanted
};

/// One rank's share of an attention: output [rows, heads * head_dim] f32, log_sum_exp [rows, heads] f32.
struct PartialAttention {
  ConstView output;
  ConstView log_sum_exp;
};

/// Where a random score comes from; the hash also takes KV head and position, never the rank.
struct RandomScoreKey {
  std::uint64_t seed = 0;
  std::uint64_t document = 0;
  std::uint64_t layer = 0;
};

/// The most that a device was seen to do, all its threads together; 0 where it cannot be measured.
struct Peaks {
  double flops_per_second = 0.0;  // products of matrices in the compute type, nothing loaded
  double bytes_per_second = 0.0;  // reading memory
  double clock_hertz = 0.0;       // of a core, while it did that
  std::string instructions{};     // what the operations were measured with
};

class Device {
 public:
  Device() = default;
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// For people: processor or GPU, threads, type.
  virtual std::string description() const = 0;
  virtual DataType compute_type() const = 0;
  /// Slot capacities are multiples of this many tokens.
  virtual int tile() const = 0;
  /// Rows that projections and feed-forward are fastest at.
  virtual int row_chunk() const = 0;

  /// Throws Error when the device cannot compute such heads.
  virtual void check_heads(const HeadShape& /*shape*/) const {}

  // --- memory ---------------------------------------------------------------------------------------------------
  /// Tells memories of a host apart; empty: the host's own, which all its ranks share.
  virtual std::string memory_place() const { return {}; }
  /// Bytes that could be allocated now.
  virtual std::size_t available_memory() const = 0;
  /// Before the buffers of a document are allocated, `bytes` in all: room for them, and for what the operations over
  /// blocks of so many tokens need besides. Throws Error when there is not enough.
  virtual void reserve(const HeadShape& /*shape*/, std::int64_t /*block_tokens*/, std::size_t /*bytes*/) {}
  /// Uninitialised memory; throws Error when there is not enough.
  virtual Buffer allocate(std::size_t bytes) = 0;
  /// Packs the matrices [outputs_i, inputs] (host memory; f32, bf16 or f16), stacked along the outputs, in that order.
  /// `biases`: none, or one [1, outputs_i] for each matrix, of the same types.
  virtual std::unique_ptr<Weight> pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) = 0;
  /// Room for weights of which a node holds one copy, shared by its ranks. Collective over them, with the same shapes:
  /// all throw Error when there is not enough, and nothing may have failed on one of them alone. One rank fills each
  /// weight; none uses any before all ranks have come through a collective operation behind that. (A device that its
  /// ranks cannot share gives each its own: one rank reads for all, or each for itself.)
  virtual std::vector<ReservedWeight> reserve_weights(std::span<const WeightShape> shapes) = 0;
  /// Packs into a weight that is `filled_here`, as pack does.
  virtual void fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) = 0;
  virtual std::size_t slot_bytes(int capacity, const HeadShape& shape) const = 0;
  /// Copies host memory to the device, converting the type; the source may be reused on return.
  virtual void upload(ConstView source, View destination) = 0;
  /// Copies to host memory of the same type; filled after synchronize().
  virtual void download(ConstView source, View destination) = 0;

  // --- order and time -------------------------------------------------------------------------------------------
  /// The host waits until everything enqueued has run.
  virtual void synchronize() = 0;
  /// Operations enqueued from here on run after the transfer has arrived.
  virtual void wait_for(std::shared_ptr<Transfer> transfer) = 0;
  /// Time from here to the next mark counts to `phase`.
  virtual void mark(Phase phase) = 0;
  /// From here on long operations that run on the host's threads call this between their tiles, and synchronize() while
  /// it waits, in the thread that called them: so messages move meanwhile. Returns whether there are any.
  virtual void set_progress(std::function<bool()> /*progress*/) {}
  /// Seconds per phase since the last call; after synchronize().
  virtual PhaseSeconds take_phase_seconds() = 0;
  /// Measures what the device can do, in about a second; `bytes` (less where memory is short) are read over and over.
  /// Ranks that share a host call it together, so that each sees its share.
  virtual Peaks measure_peaks(std::size_t bytes) = 0;

  // --- operations -----------------------------------------------------------------------------------------------
  /// out[i] (f32 [rows, hidden]) = table[tokens[i]]; tokens i32 [rows, 1], table [vocabulary, hidden].
  virtual void embed(ConstView tokens, const Weight& table, View out) = 0;
  /// out = x / rms(x) * weight; x f32 [rows, hidden], weight f32 [1, hidden], out [rows, hidden].
  virtual void rms_norm(ConstView x, ConstView weight, float epsilon, View out) = 0;
  /// out [rows, outputs] (compute type or f32) = x [rows, inputs] weight^T + bias, or += with accumulate (f32 only).
  virtual void linear(ConstView x, const Weight& weight, View out, bool accumulate) = 0;
  /// Splits rows [rows, (heads + 2 kv_heads) head_dim] = (Q, K, V): Q after RoPE to query_out [rows, heads * head_dim]
  /// (nowhere when empty), K after RoPE and V to tokens [first_token, first_token + rows) of the slot. The norms, where
  /// there are any, come first. RoPE turns
  /// (x_i, x_{i + head_dim / 2}) by the row's angle; rotary f32 [positions, head_dim] holds per position head_dim / 2
  /// cosines, then as many sines; row i stands at first_position + i. What follows in the slot's last begun tile is no
  /// longer valid, so slots are filled in ascending order.
  virtual void rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                                std::int64_t first_position, View query_out, Slot slot, int first_token) = 0;
  virtual void attention(const AttentionArguments& arguments) = 0;
  /// Merges partial outputs over disjoint keys by their log-sum-exp, in the order given; out [rows, heads * head_dim].
  virtual void merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) = 0;
  /// Merges one more partial output, over further keys, into `output` and `log_sum_exp`, in place.
  virtual void add_partial(const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) = 0;
  /// destination = source, of the same type and shape; they do not overlap.
  virtual void copy(ConstView source, View destination) = 0;
  /// x = silu(x), in place.
  virtual void silu(View x) = 0;
  /// out [rows, columns] = silu(gate) * up of gate_up [rows, 2 columns] = (gate, up).
  virtual void silu_multiply(ConstView gate_up, View out) = 0;

  // --- compression: scores are f32 [tokens, kv_heads] -----------------------------------------------------------
  /// mean f32 [kv_heads, head_dim]: query [rows, heads * head_dim] averaged over rows and over each KV head's group.
  virtual void mean_query(const HeadShape& shape, ConstView query, View mean) = 0;
  /// scores[t, g] = mean[g] . K[t, g] for the tokens of a slot (K after RoPE).
  virtual void score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) = 0;
  /// scores[t, g] = hash of (key, g, first_position + t) in [0, 1): s = mix(seed), then s = mix(s ^ v) for v =
  /// document, layer, g, position, with mix(x) = splitmix64's step from state x; the score is the top 24 bits / 2^24.
  virtual void score_random(const RandomScoreKey& key, std::int64_t first_position, View scores) = 0;
  /// scores[t, g] = first_position + t.
  virtual void score_recent(std::int64_t first_position, View scores) = 0;
  /// Per KV head the positions.columns highest scores (max-pooled over `pool_window` tokens, odd, 1: not pooled) among
  /// tokens [excluded, tokens), ties to the lower token: positions i32 [kv_heads, count], ascending.
  virtual void select(ConstView scores, int pool_window, int excluded, View positions) = 0;
  /// Copies per KV head the tokens `positions` i32 [kv_heads, count] of source to tokens [0, count) of destination.
  virtual void gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) = 0;

  /// out i32 [rows, 1]: column of the largest value of each row of x f32, the lower one on ties.
  virtual void argmax(ConstView x, View out) = 0;
};

}  // namespace apb
