// The CUDA device: one GPU, one stream, bf16. Kernels are our own (kernels.hpp), matrix products are cuBLASLt's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "cuda/arena.hpp"
#include "cuda/cublas_lt.hpp"
#include "cuda/handles.hpp"
#include "cuda/kernels.hpp"
#include "cuda/phase_timer.hpp"
#include "cuda/staging.hpp"
#include "device/check.hpp"
#include "device/device.hpp"

namespace apb::cuda {

/// How many GPUs this process sees; throws Error that says why there is none.
int visible_gpus();
/// The GPU's UUID, the same in all processes.
std::string gpu_id(int gpu);

class CudaDevice : public Device {
 public:
  /// Makes `gpu` the calling thread's; all calls must come from that thread. Throws Error where the GPU cannot be used.
  explicit CudaDevice(int gpu);

  int gpu() const { return gpu_; }
  cudaStream_t stream() const { return stream_.get(); }

  /// Sends the first rank's memory to all, enqueued behind what the device has been given so far.
  using Broadcast = std::function<std::shared_ptr<Transfer>(View)>;
  /// From here on `host`'s first rank reads weights for all. Both must live as long as weights are loaded.
  void share_weights(Communicator& host, Broadcast broadcast);

  std::string description() const override;
  DataType compute_type() const override { return DataType::bf16; }
  int tile() const override { return cuda::tile; }
  int row_chunk() const override { return 4096; }
  std::string memory_place() const override;

  std::size_t available_memory() const override;
  void check_heads(const HeadShape& shape) const override;
  void reserve(const HeadShape& shape, std::int64_t block_tokens, std::size_t bytes) override;
  Buffer allocate(std::size_t bytes) override { return arena_->allocate(bytes); }
  std::unique_ptr<Weight> pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) override;
  std::vector<ReservedWeight> reserve_weights(std::span<const WeightShape> shapes) override;
  void fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) override;
  std::size_t slot_bytes(int capacity, const HeadShape& shape) const override {
    return cuda::slot_bytes(capacity, shape);
  }
  void upload(ConstView source, View destination) override;
  void download(ConstView source, View destination) override;

  void synchronize() override;
  void wait_for(std::shared_ptr<Transfer> transfer) override;
  void mark(Phase phase) override { timer_.mark(phase); }
  void set_progress(std::function<bool()> progress) override { progress_ = std::move(progress); }
  PhaseSeconds take_phase_seconds() override { return timer_.take(); }
  Peaks measure_peaks(std::size_t bytes) override;

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
  void upload_weight(const CudaWeight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases);
  /// What is enqueued from here on finds all weights there.
  void finish_weights();
  const CudaWeight& arrived(const Weight& weight);
  double measure_product();
  double measure_copy(std::size_t bytes);
  void copy_rows(ConstView source, View destination, cudaMemcpyKind kind);
  /// Of at least so many bytes; grows outside the layer loop only, since reserve has been told what will be needed.
  Workspace workspace(std::size_t bytes);

  int gpu_;
  cudaDeviceProp properties_;
  Stream stream_;
  std::shared_ptr<Arena> arena_;
  Staging staging_;
  PhaseTimer timer_;
  CublasLt cublas_;
  Buffer workspace_;
  Communicator* weight_readers_ = nullptr;  // whose first rank reads the weights; none: each rank for itself
  Broadcast broadcast_;
  std::vector<std::shared_ptr<Transfer>> weights_under_way_;
  std::function<bool()> progress_;
  OperationChecks checks_{DataType::bf16, cuda::tile};
};

}  // namespace apb::cuda
