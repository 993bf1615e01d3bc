// A device that does nothing before it must: what an accelerator may do, for tests on the CPU.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "device/device.hpp"
#include "device/transfer.hpp"

namespace apb {

/// Puts every operation off to synchronize(), and hands it to another device whose memory the host can read. Until an
/// operation has run, its output is NaN (all bits set; -1 as an integer), so a result that is read too early, or that
/// an operation leaves unwritten, shows. Arguments are copied, the memory behind views and spans is not: changing it
/// between an operation and synchronize() changes the result, as it would on an accelerator. An output that overlaps an
/// input of the same operation is lost, silu and accumulation apart.
///
/// Slots are poisoned as a whole when they are written from their first token on. What follows a wait_for may write
/// where messages are still under way, and is poisoned only when it runs.
class DeferredDevice : public Device {
 public:
  /// `device` must outlive this.
  explicit DeferredDevice(Device& device) : device_(device) {}

  std::string description() const override { return device_.description() + ", deferred"; }
  DataType compute_type() const override { return device_.compute_type(); }
  int tile() const override { return device_.tile(); }
  int row_chunk() const override { return device_.row_chunk(); }

  std::size_t available_memory() const override { return device_.available_memory(); }
  Buffer allocate(std::size_t bytes) override { return device_.allocate(bytes); }
  std::unique_ptr<Weight> pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) override {
    return device_.pack(stacked, biases);
  }
  std::vector<ReservedWeight> reserve_weights(std::span<const WeightShape> shapes) override {
    return device_.reserve_weights(shapes);
  }
  void fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) override {
    device_.fill(weight, stacked, biases);
  }
  std::size_t slot_bytes(int capacity, const HeadShape& shape) const override {
    return device_.slot_bytes(capacity, shape);
  }
  void upload(ConstView source, View destination) override;
  void download(ConstView source, View destination) override;

  void synchronize() override;
  void wait_for(std::shared_ptr<Transfer> transfer) override;
  void mark(Phase phase) override;
  void set_progress(std::function<bool()> progress) override { device_.set_progress(std::move(progress)); }
  /// Throws std::logic_error when operations have not run yet.
  PhaseSeconds take_phase_seconds() override;
  Peaks measure_peaks(std::size_t bytes) override { return device_.measure_peaks(bytes); }

  void embed(ConstView tokens, const Weight& table, View out) override;
  void rms_norm(ConstView x, ConstView weight, float epsilon, View out) override;
  void linear(ConstView x, const Weight& weight, View out, bool accumulate) override;
  void rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                        std::int64_t first_position, View query_out, Slot slot, int first_token) override;
  void attention(const AttentionArguments& arguments) override;
  void merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) override;
  void add_partial(const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) override;
  void copy(ConstView source, View destination) override;
  void silu(View x) override;
  void silu_multiply(ConstView gate_up, View out) override;

  void mean_query(const HeadShape& shape, ConstView query, View mean) override;
  void score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) override;
  void score_random(const RandomScoreKey& key, std::int64_t first_position, View scores) override;
  void score_recent(std::int64_t first_position, View scores) override;
  void select(ConstView scores, int pool_window, int excluded, View positions) override;
  void gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) override;
  void argmax(ConstView x, View out) override;

 private:
  struct Operation {
    std::function<void()> run;
    std::vector<View> outputs;  // written without being read
  };

  /// Queues an operation that reads (or changes in place) `inputs`.
  void enqueue(std::function<void()> run, std::vector<View> outputs, const std::vector<ConstView>& inputs);
  /// All of a slot's memory as one row.
  View bytes_of(const Slot& slot, const HeadShape& shape) const;

  Device& device_;
  std::vector<Operation> queue_;
  std::vector<ConstView> in_use_;  // what queued operations read or write
  bool transfer_queued_ = false;
};

}  // namespace apb
