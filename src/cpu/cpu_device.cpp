#include "cpu/cpu_device.hpp"

#include <dnnl_debug.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <dnnl.hpp>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "cpu/attention/attention.hpp"
#include "cpu/check.hpp"
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
  void mark(Phase phase) {
    const auto now = Clock::now();
    seconds_[static_cast<std::size_t>(phase_)] += std::chrono::duration<double>(now - since_).count();
    since_ = now;
    phase_ = phase;
  }
  PhaseSeconds take() {
    mark(phase_);
    return std::exchange(seconds_, {});
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point since_ = Clock::now();
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
        selection_(options.threads) {}

  std::string description() const override {
    std::string_view instructions = dnnl_cpu_isa2str(static_cast<dnnl_cpu_isa_t>(dnnl::get_effective_cpu_isa()));
    if (instructions.starts_with("cpu_isa_")) instructions.remove_prefix(std::string_view("cpu_isa_").size());
    return fmt::format("{}, {} thread{}, {}, {}", processor_name(), threads_, threads_ == 1 ? "" : "s",
                       cpu::name_of(type_), instructions);
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
};

/// `stacked` and `biases` as pack takes them; returns the rows of all together.
std::int64_t check_matrices(const char* name, std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  cpu::require(!stacked.empty(), name, "there is no matrix");
  std::int64_t rows = 0;
  for (const auto& matrix : stacked) {
    cpu::check({name, "matrix"}, matrix, matrix.rows, stacked.front().columns,
               {DataType::f32, DataType::bf16, DataType::f16}, Space::host);
    rows += matrix.rows;
  }
  cpu::require(biases.empty() || biases.size() == stacked.size(), name,
               fmt::format("{} biases for {} matrices", biases.size(), stacked.size()));
  for (std::size_t i = 0; i < biases.size(); ++i) {
    cpu::check({name, "bias"}, biases[i], 1, stacked[i].rows, {DataType::f32, DataType::bf16, DataType::f16},
               Space::host);
  }
  return rows;
}

std::unique_ptr<Weight> CpuDevice::pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  check_matrices("pack", stacked, biases);
  return gemm_.pack(stacked, biases);
}

void CpuDevice::fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  const std::int64_t rows = check_matrices("fill", stacked, biases);
  cpu::require(rows == weight.outputs() && stacked.front().columns == weight.inputs(), "fill",
               fmt::format("matrices of [{}, {}] for a weight of [{}, {}]", rows, stacked.front().columns,
                           weight.outputs(), weight.inputs()));
  gemm_.fill(weight, stacked, biases);
}

void CpuDevice::upload(ConstView source, View destination) {
  cpu::check({"upload", "source"}, source, destination.rows, destination.columns, {source.type}, Space::host);
  cpu::check({"upload", "destination"}, destination, destination.rows, destination.columns, {destination.type});
  const bool float_to_float =
      source.type != DataType::i32 && (destination.type == DataType::f32 || destination.type == DataType::bf16);
  cpu::require(source.type == destination.type || float_to_float, "upload",
               fmt::format("cannot turn {} into {}", cpu::name_of(source.type), cpu::name_of(destination.type)));
  cpu::for_each_index(threads_, destination.rows, [&](std::int64_t row) {
    cpu::convert(source.row(row), source.type, destination.row(row), destination.type, destination.columns);
  });
}

void CpuDevice::download(ConstView source, View destination) {
  cpu::check({"download", "source"}, source, destination.rows, destination.columns, {destination.type});
  cpu::check({"download", "destination"}, destination, source.rows, source.columns, {source.type}, Space::host);
  for (std::int64_t row = 0; row < source.rows; ++row) {
    cpu::convert(source.row(row), source.type, destination.row(row), destination.type, source.columns);
  }
}

void CpuDevice::embed(ConstView tokens, const Weight& table, View out) {
  cpu::check({"embed", "tokens"}, tokens, tokens.rows, 1, {DataType::i32});
  cpu::check({"embed", "out"}, out, tokens.rows, table.inputs(), {DataType::f32});
  cpu::embed(threads_, tokens, dynamic_cast<const cpu::PackedWeight&>(table), out);
}

void CpuDevice::rms_norm(ConstView x, ConstView weight, float epsilon, View out) {
  cpu::check({"rms_norm", "x"}, x, x.rows, x.columns, {DataType::f32});
  cpu::check({"rms_norm", "weight"}, weight, 1, x.columns, {DataType::f32});
  cpu::check({"rms_norm", "out"}, out, x.rows, x.columns, {type_, DataType::f32});
  cpu::rms_norm(threads_, x, weight, epsilon, out);
}

void CpuDevice::linear(ConstView x, const Weight& weight, View out, bool accumulate) {
  cpu::check({"linear", "x"}, x, x.rows, weight.inputs(), {type_});
  cpu::check({"linear", "out"}, out, x.rows, weight.outputs(), {accumulate ? DataType::f32 : type_, DataType::f32});
  gemm_.linear(x, weight, out, accumulate);
}

void CpuDevice::rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                                 std::int64_t first_position, View query_out, Slot slot, int first_token) {
  const char* name = "rotate_and_store";
  cpu::check_shape(name, shape);
  cpu::require(shape.head_dim % 2 == 0, name, fmt::format("head_dim {} is odd", shape.head_dim));
  cpu::check({name, "qkv"}, qkv, qkv.rows, shape.qkv_columns(), {type_});
  cpu::check({name, "rotary"}, rotary, rotary.rows, shape.head_dim, {DataType::f32});
  cpu::require(norms.query.empty() == norms.key.empty(), name, "only one of Q and K has a norm");
  if (!norms.query.empty()) {
    cpu::check({name, "norm of Q"}, norms.query, 1, shape.head_dim, {DataType::f32});
    cpu::check({name, "norm of K"}, norms.key, 1, shape.head_dim, {DataType::f32});
  }
  if (!query_out.empty()) cpu::check({name, "query_out"}, query_out, qkv.rows, shape.query_columns(), {type_});
  if (qkv.rows == 0) return;
  cpu::require(first_position >= 0 && first_position + qkv.rows <= rotary.rows, name,
               fmt::format("positions {}..{} are outside the {} of rotary", first_position, first_position + qkv.rows,
                           rotary.rows));
  cpu::check_slot(name, slot, first_token, qkv.rows);
  cpu::rotate_and_store(threads_, shape, qkv, norms, rotary, first_position, query_out, slot, first_token);
}

void CpuDevice::attention(const AttentionArguments& arguments) {
  const auto& [shape, query, visible, causal, causal_before, output, log_sum_exp] = arguments;
  cpu::check_shape("attention", shape);
  cpu::check({"attention", "query"}, query, query.rows, shape.query_columns(), {type_});
  cpu::check({"attention", "output"}, output, query.rows, shape.query_columns(), {type_, DataType::f32});
  if (!log_sum_exp.empty()) {
    cpu::check({"attention", "log_sum_exp"}, log_sum_exp, query.rows, shape.heads, {DataType::f32});
  }
  for (const auto& range : visible) cpu::check_slot("attention", range.slot, 0, range.count);
  cpu::check_slot("attention", causal.slot, 0, causal.count);
  cpu::require(causal_before >= 0, "attention", fmt::format("causal_before is {}", causal_before));
  attention_.run(arguments);
}

void CpuDevice::merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) {
  cpu::check_shape("merge", shape);
  cpu::check({"merge", "out"}, out, out.rows, shape.query_columns(), {type_, DataType::f32});
  for (const auto& partial : partials) {
    cpu::check({"merge", "output"}, partial.output, out.rows, shape.query_columns(), {DataType::f32});
    cpu::check({"merge", "log_sum_exp"}, partial.log_sum_exp, out.rows, shape.heads, {DataType::f32});
  }
  cpu::merge(threads_, shape, partials, out);
}

void CpuDevice::add_partial(const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) {
  cpu::check_shape("add_partial", shape);
  cpu::check({"add_partial", "output"}, output, output.rows, shape.query_columns(), {DataType::f32});
  cpu::check({"add_partial", "log_sum_exp"}, log_sum_exp, output.rows, shape.heads, {DataType::f32});
  cpu::check({"add_partial", "partial output"}, partial.output, output.rows, shape.query_columns(), {DataType::f32});
  cpu::check({"add_partial", "partial log_sum_exp"}, partial.log_sum_exp, output.rows, shape.heads, {DataType::f32});
  cpu::add_partial(threads_, shape, partial, output, log_sum_exp);
}

void CpuDevice::copy(ConstView source, View destination) {
  cpu::check({"copy", "destination"}, destination, source.rows, source.columns, {source.type});
  cpu::for_each_index(threads_, source.rows, [&](std::int64_t row) {
    std::memcpy(destination.row(row), source.row(row), static_cast<std::size_t>(source.columns) * size_of(source.type));
  });
}

void CpuDevice::silu(View x) {
  cpu::check({"silu", "x"}, x, x.rows, x.columns, {type_, DataType::f32});
  cpu::silu(threads_, x);
}

void CpuDevice::silu_multiply(ConstView gate_up, View out) {
  cpu::check({"silu_multiply", "gate_up"}, gate_up, out.rows, 2 * out.columns, {type_});
  cpu::check({"silu_multiply", "out"}, out, out.rows, out.columns, {type_});
  cpu::silu_multiply(threads_, gate_up, out);
}

void CpuDevice::mean_query(const HeadShape& shape, ConstView query, View mean) {
  cpu::check_shape("mean_query", shape);
  cpu::check({"mean_query", "query"}, query, query.rows, shape.query_columns(), {type_});
  cpu::check({"mean_query", "mean"}, mean, shape.kv_heads, shape.head_dim, {DataType::f32});
  cpu::mean_query(threads_, shape, query, mean);
}

void CpuDevice::score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) {
  cpu::check_shape("score_similarity", shape);
  cpu::check({"score_similarity", "mean"}, mean, shape.kv_heads, shape.head_dim, {DataType::f32});
  cpu::check_slot("score_similarity", keys.slot, 0, keys.count);
  cpu::check({"score_similarity", "scores"}, scores, keys.count, shape.kv_heads, {DataType::f32});
  cpu::score_similarity(threads_, shape, type_, mean, keys, scores);
}

void CpuDevice::score_random(const RandomScoreKey& key, std::int64_t first_position, View scores) {
  cpu::check({"score_random", "scores"}, scores, scores.rows, scores.columns, {DataType::f32});
  cpu::score_random(threads_, key, first_position, scores);
}

void CpuDevice::score_recent(std::int64_t first_position, View scores) {
  cpu::check({"score_recent", "scores"}, scores, scores.rows, scores.columns, {DataType::f32});
  cpu::score_recent(first_position, scores);
}

void CpuDevice::select(ConstView scores, int pool_window, int excluded, View positions) {
  cpu::check({"select", "scores"}, scores, scores.rows, positions.rows, {DataType::f32});
  cpu::check({"select", "positions"}, positions, scores.columns, positions.columns, {DataType::i32});
  cpu::require(pool_window > 0 && pool_window % 2 == 1, "select",
               fmt::format("pool_window {} is not a positive odd number", pool_window));
  cpu::require(
      excluded >= 0 && positions.columns <= std::max<std::int64_t>(0, scores.rows - excluded), "select",
      fmt::format("cannot choose {} of {} tokens of which {} are excluded", positions.columns, scores.rows, excluded));
  selection_.run(scores, pool_window, excluded, positions);
}

void CpuDevice::gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) {
  cpu::check_shape("gather", shape);
  cpu::check_slot("gather", source.slot, 0, source.count);
  cpu::check({"gather", "positions"}, positions, shape.kv_heads, positions.columns, {DataType::i32});
  cpu::check_slot("gather", destination, 0, positions.columns);
  cpu::gather(threads_, shape, type_, source, positions, destination);
}

void CpuDevice::argmax(ConstView x, View out) {
  cpu::require(x.rows == 0 || x.columns > 0, "argmax", "x has no columns");
  cpu::check({"argmax", "x"}, x, x.rows, x.columns, {DataType::f32});
  cpu::check({"argmax", "out"}, out, x.rows, 1, {DataType::i32});
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
