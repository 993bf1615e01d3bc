#include "cpu/cpu_device.hpp"

#include <dnnl_debug.h>
#include <fmt/format.h>

#include <algorithm>
#include <dnnl.hpp>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "cpu/attention/attention.hpp"
#include "cpu/convert.hpp"
#include "cpu/elementwise.hpp"
#include "cpu/gemm.hpp"
#include "cpu/host_memory.hpp"
#include "cpu/key_value_layout.hpp"
#include "cpu/merge.hpp"
#include "cpu/packed_weight.hpp"
#include "cpu/peaks.hpp"
#include "cpu/rows.hpp"
#include "cpu/selection.hpp"
#include "cpu/slots.hpp"
#include "device/check.hpp"
#include "device/transfer.hpp"

namespace apb {
namespace {

/// The processor's name as Linux gives it.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

/// Adds up the time between marks.
class PhaseTimer {
 public:
  explicit PhaseTimer(std::function<double()> clock) : clock_(std::move(clock)) {}
  void mark(Phase phase) {
    const double now = clock_();
    seconds_[static_cast<std::size_t>(phase_)] += now - since_;
    since_ = now;
    phase_ = phase;
  }
  PhaseSeconds take() {
    mark(phase_);
    return std::exchange(seconds_, {});
  }

 private:
  std::function<double()> clock_;
  double since_ = clock_();
  Phase phase_ = Phase::other;
  PhaseSeconds seconds_{};
};

/// Checks what an operation is given and hands it to the function that does it.
class CpuDevice : public Device {
 public:
  explicit CpuDevice(const CpuOptions& options)
      : threads_(options.threads),
        type_(options.compute_type),
        gemm_(options.threads, options.compute_type, options.node),
        attention_(options.threads, options.compute_type),
        selection_(options.threads),
        timer_(options.clock) {}

  std::string description() const override {
    std::string_view instructions = dnnl_cpu_isa2str(static_cast<dnnl_cpu_isa_t>(dnnl::get_effective_cpu_isa()));
    if (instructions.starts_with("cpu_isa_")) instructions.remove_prefix(std::string_view("cpu_isa_").size());
    return fmt::format("{}, {} thread{}, {}, {}", processor_name(), threads_, threads_ == 1 ? "" : "s", name_of(type_),
                       instructions);
  }
  DataType compute_type() const override { return type_; }
  int tile() const override { return cpu::key_tile; }
  int row_chunk() const override { return 512; }

  std::size_t available_memory() const override { return cpu::available_host_memory(); }
  Buffer allocate(std::size_t bytes) override { return cpu::allocate_host_memory(bytes); }
  std::unique_ptr<Weight> pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) override;
  std::vector<ReservedWeight> reserve_weights(std::span<const WeightShape> shapes) override {
    return gemm_.reserve(shapes);
  }
  void fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) override;
  std::size_t slot_bytes(int capacity, const HeadShape& shape) const override {
    return cpu::slot_bytes(capacity, shape, type_);
  }
  void upload(ConstView source, View destination) override;
  void download(ConstView source, View destination) override;

  void synchronize() override {}
  void wait_for(std::shared_ptr<Transfer> transfer) override { transfer->finish(); }
  void mark(Phase phase) override { timer_.mark(phase); }
  PhaseSeconds take_phase_seconds() override { return timer_.take(); }
  Peaks measure_peaks(std::size_t bytes) override {
    return cpu::measure_peaks(threads_, type_, std::min(bytes, available_memory() / 2));
  }

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
  int threads_;
  DataType type_;
  cpu::Gemm gemm_;
  cpu::Attention attention_;
  cpu::Selection selection_;
  PhaseTimer timer_;
  OperationChecks checks_{type_, cpu::key_tile};
};

std::unique_ptr<Weight> CpuDevice::pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  checks_.pack(stacked, biases);
  return gemm_.pack(stacked, biases);
}

void CpuDevice::fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  checks_.fill(weight, stacked, biases);
  gemm_.fill(weight, stacked, biases);
}

void CpuDevice::upload(ConstView source, View destination) {
  checks_.upload(source, destination);
  cpu::for_each_index(threads_, destination.rows, [&](std::int64_t row) {
    cpu::convert(source.row(row), source.type, destination.row(row), destination.type, destination.columns);
  });
}

void CpuDevice::download(ConstView source, View destination) {
  checks_.download(source, destination);
  for (std::int64_t row = 0; row < source.rows; ++row) {
    cpu::convert(source.row(row), source.type, destination.row(row), destination.type, source.columns);
  }
}

void CpuDevice::embed(ConstView tokens, const Weight& table, View out) {
  checks_.embed(tokens, table, out);
  cpu::embed(threads_, tokens, dynamic_cast<const cpu::PackedWeight&>(table), out);
}

void CpuDevice::rms_norm(ConstView x, ConstView weight, float epsilon, View out) {
  checks_.rms_norm(x, weight, out);
  cpu::rms_norm(threads_, x, weight, epsilon, out);
}

void CpuDevice::linear(ConstView x, const Weight& weight, View out, bool accumulate) {
  checks_.linear(x, weight, out, accumulate);
  gemm_.linear(x, weight, out, accumulate);
}

void CpuDevice::rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                                 std::int64_t first_position, View query_out, Slot slot, int first_token) {
  checks_.rotate_and_store(shape, qkv, norms, rotary, first_position, query_out, slot, first_token);
  if (qkv.rows == 0) return;
  cpu::rotate_and_store(threads_, shape, qkv, norms, rotary, first_position, query_out, slot, first_token);
}

void CpuDevice::attention(const AttentionArguments& arguments) {
  checks_.attention(arguments);
  attention_.run(arguments);
}

void CpuDevice::merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) {
  checks_.merge(shape, partials, out);
  cpu::merge(threads_, shape, partials, out);
}

void CpuDevice::add_partial(const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) {
  checks_.add_partial(shape, partial, output, log_sum_exp);
  cpu::add_partial(threads_, shape, partial, output, log_sum_exp);
}

void CpuDevice::copy(ConstView source, View destination) {
  checks_.copy(source, destination);
  cpu::for_each_index(threads_, source.rows, [&](std::int64_t row) {
    std::memcpy(destination.row(row), source.row(row), static_cast<std::size_t>(source.columns) * size_of(source.type));
  });
}

void CpuDevice::silu(View x) {
  checks_.silu(x);
  cpu::silu(threads_, x);
}

void CpuDevice::silu_multiply(ConstView gate_up, View out) {
  checks_.silu_multiply(gate_up, out);
  cpu::silu_multiply(threads_, gate_up, out);
}

void CpuDevice::mean_query(const HeadShape& shape, ConstView query, View mean) {
  checks_.mean_query(shape, query, mean);
  cpu::mean_query(threads_, shape, query, mean);
}

void CpuDevice::score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) {
  checks_.score_similarity(shape, mean, keys, scores);
  cpu::score_similarity(threads_, shape, type_, mean, keys, scores);
}

void CpuDevice::score_random(const RandomScoreKey& key, std::int64_t first_position, View scores) {
  checks_.score("score_random", scores);
  cpu::score_random(threads_, key, first_position, scores);
}

void CpuDevice::score_recent(std::int64_t first_position, View scores) {
  checks_.score("score_recent", scores);
  cpu::score_recent(first_position, scores);
}

void CpuDevice::select(ConstView scores, int pool_window, int excluded, View positions) {
  checks_.select(scores, pool_window, excluded, positions);
  selection_.run(scores, pool_window, excluded, positions);
}

void CpuDevice::gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) {
  checks_.gather(shape, source, positions, destination);
  cpu::gather(threads_, shape, type_, source, positions, destination);
}

void CpuDevice::argmax(ConstView x, View out) {
  checks_.argmax(x, out);
  cpu::argmax(threads_, x, out);
}

}  // namespace

std::unique_ptr<Device> make_cpu_device(const CpuOptions& options) {
  if (options.threads < 1) throw std::invalid_argument(fmt::format("cpu device: {} threads", options.threads));
  if (options.compute_type != DataType::f32 && options.compute_type != DataType::bf16) {
    throw std::invalid_argument("cpu device: computes in f32 or bf16");
  }
  return std::make_unique<CpuDevice>(options);
}

}  // namespace apb
