#include "cuda/cuda_device.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "device/transfer.hpp"
#include "error.hpp"

namespace apb::cuda {
namespace {

constexpr int oldest_major = 8;                             // compute capability of the oldest kernels
constexpr std::size_t kept_free = std::size_t{256} << 20U;  // for what NCCL and CUDA take later
constexpr std::array<int, 2> head_dims = {64, 128};         // that attention has kernels for

/// The calling thread's GPU from here on, and what it is.
cudaDeviceProp use_gpu(int gpu) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, gpu), "cudaGetDeviceProperties");
  if (properties.major < oldest_major) {
    fail("GPU {} ({}) is too old: compute capability {}.{}, and 8.0 (A100) is the least; use --device cpu", gpu,
         properties.name, properties.major, properties.minor);
  }
  check(cudaSetDevice(gpu), "cudaSetDevice");
  return properties;
}

}  // namespace

int visible_gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    fail("no GPU: {}", status == cudaSuccess ? "none is visible" : cudaGetErrorString(status));
  }
  return count;
}

std::string gpu_id(int gpu) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, gpu), "cudaGetDeviceProperties");
  std::string id;
  for (const char byte : properties.uuid.bytes) id += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return id;
}

CudaDevice::CudaDevice(int gpu)
    : gpu_(gpu),
      properties_(use_gpu(gpu)),
      stream_(make_stream()),
      arena_(std::make_shared<Arena>()),
      staging_(stream_.get(), *arena_),
      timer_(stream_.get()),
      cublas_(*arena_) {}

std::string CudaDevice::description() const {
  return fmt::format("GPU {}: {}, {:.0f} GiB, bf16", gpu_, properties_.name,
                     static_cast<double>(properties_.totalGlobalMem) / 0x1p30);
}

std::string CudaDevice::memory_place() const { return fmt::format("GPU {}", gpu_id(gpu_)); }

std::size_t CudaDevice::available_memory() const {
  const std::size_t available = arena_->available();
  return available - std::min(available, kept_free);
}

void CudaDevice::check_heads(const HeadShape& shape) const {
  if (std::find(head_dims.begin(), head_dims.end(), shape.head_dim) != head_dims.end()) return;
  fail("head_dim {}: --device cuda computes models with a head_dim of {}; use --device cpu", shape.head_dim,
       fmt::join(head_dims, " or "));
}

void CudaDevice::reserve(const HeadShape& shape, std::int64_t block_tokens, std::size_t bytes) {
  workspace(std::max(attention_workspace(properties_.multiProcessorCount, shape),
                     select_workspace(block_tokens, shape.kv_heads)));
  arena_->reserve(bytes);
}

std::unique_ptr<Weight> CudaDevice::pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  checks_.pack(stacked, biases);
  std::int64_t outputs = 0;
  for (const ConstView& matrix : stacked) outputs += matrix.rows;
  auto weight = std::make_unique<CudaWeight>(WeightShape{outputs, stacked.front().columns, !biases.empty()}, *arena_);
  upload_weight(*weight, stacked, biases);
  return weight;
}

void CudaDevice::share_weights(Communicator& host, Broadcast broadcast) {
  weight_readers_ = &host;
  broadcast_ = std::move(broadcast);
}

std::vector<ReservedWeight> CudaDevice::reserve_weights(std::span<const WeightShape> shapes) {
  const bool reads = weight_readers_ == nullptr || weight_readers_->rank() == 0;
  std::vector<ReservedWeight> reserved;
  const auto take_room = [&] {
    for (const WeightShape& shape : shapes) reserved.push_back({std::make_unique<CudaWeight>(shape, *arena_), reads});
  };
  if (weight_readers_ == nullptr) {
    take_room();
    return reserved;
  }
  agree(*weight_readers_, take_room);
  // The first rank sends each once it has filled it, in the same order.
  for (const ReservedWeight& weight : reserved) {
    if (!reads) weights_under_way_.push_back(broadcast_(dynamic_cast<CudaWeight&>(*weight.weight).memory()));
  }
  return reserved;
}

void CudaDevice::fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  checks_.fill(weight, stacked, biases);
  auto& own = dynamic_cast<CudaWeight&>(weight);
  upload_weight(own, stacked, biases);
  if (broadcast_) weights_under_way_.push_back(broadcast_(own.memory()));
}

void CudaDevice::upload_weight(const CudaWeight& weight, std::span<const ConstView> stacked,
                               std::span<const ConstView> biases) {
  std::int64_t first = 0;
  for (std::size_t i = 0; i < stacked.size(); ++i) {
    staging_.upload(stacked[i], weight.matrix().row_range(first, stacked[i].rows));
    for (const DataType type : {DataType::f32, DataType::bf16}) {
      if (!biases.empty()) staging_.upload(biases[i], weight.bias(type).column_range(first, stacked[i].rows));
    }
    first += stacked[i].rows;
  }
}

void CudaDevice::finish_weights() {
  for (const auto& transfer : weights_under_way_) transfer->finish();
  weights_under_way_.clear();
}

const CudaWeight& CudaDevice::arrived(const Weight& weight) {
  finish_weights();
  return dynamic_cast<const CudaWeight&>(weight);
}

void CudaDevice::upload(ConstView source, View destination) {
  checks_.upload(source, destination);
  staging_.upload(source, destination);
}

void CudaDevice::download(ConstView source, View destination) {
  checks_.download(source, destination);
  copy_rows(source, destination, cudaMemcpyDeviceToHost);
}

void CudaDevice::copy(ConstView source, View destination) {
  checks_.copy(source, destination);
  copy_rows(source, destination, cudaMemcpyDeviceToDevice);
}

/// Between views of one type and shape.
void CudaDevice::copy_rows(ConstView source, View destination, cudaMemcpyKind kind) {
  if (source.empty()) return;
  const std::size_t element = size_of(source.type);
  const auto width = static_cast<std::size_t>(source.columns) * element;
  check(cudaMemcpy2DAsync(destination.data, std::max(width, static_cast<std::size_t>(destination.stride) * element),
                          source.data, std::max(width, static_cast<std::size_t>(source.stride) * element), width,
                          static_cast<std::size_t>(source.rows), kind, stream()),
        "cudaMemcpy2DAsync");
}

void CudaDevice::synchronize() {
  finish_weights();
  // Asked, not waited for: other ranks want answers from this host while its GPU computes.
  cudaError_t status = cudaSuccess;
  while ((status = cudaStreamQuery(stream_.get())) == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());  // or the next launch might report it
    if (progress_) progress_();
  }
  check(status, "cudaStreamQuery");
  timer_.collect();
}

void CudaDevice::wait_for(std::shared_ptr<Transfer> transfer) { transfer->finish(); }

void CudaDevice::embed(ConstView tokens, const Weight& table, View out) {
  checks_.embed(tokens, table, out);
  check(cuda::embed(stream(), tokens, arrived(table).matrix(), out), "embed");
}

void CudaDevice::rms_norm(ConstView x, ConstView weight, float epsilon, View out) {
  checks_.rms_norm(x, weight, out);
  check(cuda::rms_norm(stream(), x, weight, epsilon, out), "rms_norm");
}

void CudaDevice::linear(ConstView x, const Weight& weight, View out, bool accumulate) {
  checks_.linear(x, weight, out, accumulate);
  cublas_.linear(stream(), x, arrived(weight), out, accumulate);
}

void CudaDevice::rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                                  std::int64_t first_position, View query_out, Slot slot, int first_token) {
  checks_.rotate_and_store(shape, qkv, norms, rotary, first_position, query_out, slot, first_token);
  check(cuda::rotate_and_store(stream(), shape, qkv, norms, rotary, first_position, query_out, slot, first_token),
        "rotate_and_store");
}

void CudaDevice::attention(const AttentionArguments& arguments) {
  checks_.attention(arguments);
  require(arguments.visible.size() <= largest_slot_table, "attention",
          fmt::format("{} visible slots, {} are the most", arguments.visible.size(), largest_slot_table));
  const int multiprocessors = properties_.multiProcessorCount;
  check(cuda::attention(stream(), arguments, multiprocessors,
                        workspace(attention_workspace(multiprocessors, arguments.shape))),
        "attention");
}

void CudaDevice::merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) {
  checks_.merge(shape, partials, out);
  check(cuda::merge(stream(), shape, partials, out), "merge");
}

void CudaDevice::add_partial(const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) {
  checks_.add_partial(shape, partial, output, log_sum_exp);
  check(cuda::add_partial(stream(), shape, partial, output, log_sum_exp), "add_partial");
}

void CudaDevice::silu(View x) {
  checks_.silu(x);
  check(cuda::silu(stream(), x), "silu");
}

void CudaDevice::silu_multiply(ConstView gate_up, View out) {
  checks_.silu_multiply(gate_up, out);
  check(cuda::silu_multiply(stream(), gate_up, out), "silu_multiply");
}

void CudaDevice::mean_query(const HeadShape& shape, ConstView query, View mean) {
  checks_.mean_query(shape, query, mean);
  check(cuda::mean_query(stream(), shape, query, mean), "mean_query");
}

void CudaDevice::score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) {
  checks_.score_similarity(shape, mean, keys, scores);
  check(cuda::score_similarity(stream(), shape, mean, keys, scores), "score_similarity");
}

void CudaDevice::score_random(const RandomScoreKey& key, std::int64_t first_position, View scores) {
  checks_.score("score_random", scores);
  check(cuda::score_random(stream(), key, first_position, scores), "score_random");
}

void CudaDevice::score_recent(std::int64_t first_position, View scores) {
  checks_.score("score_recent", scores);
  check(cuda::score_recent(stream(), first_position, scores), "score_recent");
}

void CudaDevice::select(ConstView scores, int pool_window, int excluded, View positions) {
  checks_.select(scores, pool_window, excluded, positions);
  check(cuda::select(stream(), scores, pool_window, excluded, positions,
                     workspace(select_workspace(scores.rows, static_cast<int>(scores.columns)))),
        "select");
}

void CudaDevice::gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) {
  checks_.gather(shape, source, positions, destination);
  check(cuda::gather(stream(), shape, source, positions, destination), "gather");
}

void CudaDevice::argmax(ConstView x, View out) {
  checks_.argmax(x, out);
  check(cuda::argmax(stream(), x, out), "argmax");
}

Workspace CudaDevice::workspace(std::size_t bytes) {
  if (bytes > workspace_.bytes()) workspace_ = arena_->allocate(bytes);
  return {workspace_.data(), workspace_.bytes()};
}

}  // namespace apb::cuda
