// Times the CUDA kernels but attention at the shapes of an 8B Llama layer, and sets them against the bytes that they
// have to move: `cuda_kernels_benchmark [rows] [GB/s]`, the latter what the GPU's memory delivers at most (3350: an
// H100's).
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"

namespace apb::cuda {
namespace {

/// Microseconds of one call on the GPU: the median of some launches of a graph of calls, after one for warming up.
double microseconds(cudaStream_t stream, const std::function<cudaError_t()>& call) {
  constexpr int launches = 5;
  constexpr int calls = 20;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < calls; ++i) check(call());
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int launch = 0; launch <= launches; ++launch) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(executable, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (launch > 0) times.push_back(1e3 * static_cast<double>(milliseconds) / calls);
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  std::nth_element(times.begin(), times.begin() + launches / 2, times.end());
  return times[launches / 2];
}

double bytes_of(const ConstView& view) {
  return static_cast<double>(view.rows) * static_cast<double>(view.columns) * static_cast<double>(size_of(view.type));
}

/// Device memory of zeros.
DeviceMatrix zeros(DataType type, std::int64_t rows, std::int64_t columns) {
  DeviceMatrix matrix(type, rows, columns);
  check(cudaMemset(matrix.view().data, 0, static_cast<std::size_t>(bytes_of(matrix.view()))));
  return matrix;
}

void measure(cudaStream_t stream, std::int64_t rows, double gigabytes_per_second) {
  using enum DataType;
  const HeadShape shape{32, 8, 128};
  constexpr std::int64_t hidden = 4096;
  constexpr std::int64_t inner = 14336;
  constexpr std::int64_t vocabulary = 128256;
  const auto capacity = static_cast<int>((rows + tile - 1) / tile * tile);
  const std::int64_t chosen = rows / 4;
  const auto report = [&](const std::string& name, double bytes, const std::function<cudaError_t()>& call) {
    const double time = microseconds(stream, call);
    const double floor = bytes / gigabytes_per_second * 1e-3;
    std::printf("| %-32s | %8.1f | %8.1f | %8.1f | %4.0f %% |\n", name.c_str(), bytes * 1e-6, floor, time,
                100.0 * floor / time);
  };
  std::printf("%lld rows, %.0f GB/s\n", static_cast<long long>(rows), gigabytes_per_second);
  std::printf("| kernel                           |       MB | floor us |       us | of it  |\n");

  const DeviceMatrix residual = zeros(f32, rows, hidden);
  const DeviceMatrix normal = zeros(bf16, rows, hidden);
  const DeviceMatrix weight = zeros(f32, 1, hidden);
  const double residual_bytes = bytes_of(residual.view());
  const double normal_bytes = bytes_of(normal.view());
  {
    const DeviceMatrix copy = zeros(f32, rows, hidden);
    report("cudaMemcpy, for comparison", 2.0 * residual_bytes, [&] {
      return cudaMemcpyAsync(copy.view().data, residual.view().data, static_cast<std::size_t>(residual_bytes),
                             cudaMemcpyDeviceToDevice, stream);
    });
    const DeviceMatrix table = zeros(bf16, rows, hidden);
    Numbers ids(static_cast<std::size_t>(rows));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<double>(i * 4099 % ids.size());
    const DeviceMatrix tokens(i32, rows, 1, 1, ids);
    report("embed", bytes_of(table.view()) + residual_bytes,
           [&] { return embed(stream, tokens.view(), table.view(), copy.view()); });
  }
  report("rms_norm", residual_bytes + normal_bytes,
         [&] { return rms_norm(stream, residual.view(), weight.view(), 1e-5F, normal.view()); });
  report("convert f32 to bf16", residual_bytes + normal_bytes,
         [&] { return convert(stream, residual.view(), normal.view()); });

  const DeviceMatrix query = zeros(bf16, rows, shape.query_columns());
  const DeviceBytes slot_memory(slot_bytes(capacity, shape));
  check(cudaMemset(slot_memory.data(), 0, slot_memory.bytes()));
  const Slot slot{slot_memory.data(), capacity};
  {
    const DeviceMatrix qkv = zeros(bf16, rows, shape.qkv_columns());
    const DeviceMatrix rotary = zeros(f32, rows, shape.head_dim);
    const DeviceMatrix norm = zeros(f32, 1, shape.head_dim);
    const double bytes = 2.0 * bytes_of(qkv.view()) + bytes_of(rotary.view());
    report("rotate_and_store", bytes,
           [&] { return rotate_and_store(stream, shape, qkv.view(), {}, rotary.view(), 0, query.view(), slot, 0); });
    report("rotate_and_store with norms", bytes, [&] {
      return rotate_and_store(stream, shape, qkv.view(), {norm.view(), norm.view(), 1e-6F}, rotary.view(), 0,
                              query.view(), slot, 0);
    });
  }
  {
    const DeviceMatrix gate_up = zeros(bf16, rows, 2 * inner);
    const DeviceMatrix out = zeros(bf16, rows, inner);
    report("silu_multiply", bytes_of(gate_up.view()) + bytes_of(out.view()),
           [&] { return silu_multiply(stream, gate_up.view(), out.view()); });
    report("silu", 2.0 * bytes_of(out.view()), [&] { return silu(stream, out.view()); });
  }
  {
    const DeviceMatrix log_sum_exp = zeros(f32, rows, shape.heads);
    const DeviceMatrix other = zeros(f32, rows, hidden);
    const std::vector<PartialAttention> two{{residual.view(), log_sum_exp.view()}, {other.view(), log_sum_exp.view()}};
    report("merge of 2", 2.0 * (residual_bytes + bytes_of(log_sum_exp.view())) + normal_bytes,
           [&] { return merge(stream, shape, two, normal.view()); });
    const std::int64_t few = std::min<std::int64_t>(64, rows);
    const ConstView few_exponents = static_cast<ConstView>(log_sum_exp.view()).row_range(0, few);
    std::vector<PartialAttention> eight;
    for (int i = 0; i < 8; ++i) {
      eight.push_back({static_cast<ConstView>(residual.view()).row_range(i % 4 * (rows / 8), few), few_exponents});
    }
    const View few_out = normal.view().row_range(0, few);
    report("merge of 8, 64 rows", 8.0 * static_cast<double>(few) * hidden * 4.0 + bytes_of(few_out),
           [&] { return merge(stream, shape, eight, few_out); });
  }
  {
    const DeviceMatrix logits = zeros(f32, 8, vocabulary);
    const DeviceMatrix best = zeros(i32, 8, 1);
    report("argmax of 8 rows", bytes_of(logits.view()), [&] { return argmax(stream, logits.view(), best.view()); });
  }

  const DeviceMatrix mean = zeros(f32, shape.kv_heads, shape.head_dim);
  Random random;
  const DeviceMatrix scores(f32, rows, shape.kv_heads, shape.kv_heads, random.numbers(rows * shape.kv_heads));
  const DeviceMatrix positions = zeros(i32, shape.kv_heads, chosen);
  const DeviceBytes workspace(select_workspace(rows, shape.kv_heads));
  const double score_bytes = bytes_of(scores.view());
  const View questions = query.view().row_range(0, std::min<std::int64_t>(64, rows));
  report("mean_query of 64 rows", bytes_of(questions),
         [&] { return mean_query(stream, shape, questions, mean.view()); });
  report("select 1 in 4", score_bytes + bytes_of(positions.view()), [&] {
    return select(stream, scores.view(), 5, 0, positions.view(), {workspace.data(), workspace.bytes()});
  });
  const DeviceBytes passing(slot_bytes(capacity, shape));
  const double row_bytes = 2.0 * static_cast<double>(shape.kv_heads * shape.head_dim) * 2.0;
  report("gather", 2.0 * static_cast<double>(chosen) * row_bytes + bytes_of(positions.view()), [&] {
    return gather(stream, shape, {slot, static_cast<int>(rows)}, positions.view(), {passing.data(), capacity});
  });
  report("score_similarity", static_cast<double>(rows) * row_bytes / 2.0 + score_bytes, [&] {
    return score_similarity(stream, shape, mean.view(), {slot, static_cast<int>(rows)}, scores.view());
  });
  report("score_random", score_bytes, [&] { return score_random(stream, {1, 2, 3}, 0, scores.view()); });
  report("score_recent", score_bytes, [&] { return score_recent(stream, 0, scores.view()); });
}

}  // namespace
}  // namespace apb::cuda

int main(int count, char** arguments) {
  cudaStream_t stream = nullptr;
  apb::cuda::check(cudaStreamCreate(&stream));
  apb::cuda::measure(stream, count > 1 ? std::stoll(arguments[1]) : 8192, count > 2 ? std::stod(arguments[2]) : 3350.0);
  apb::cuda::check(cudaStreamDestroy(stream));
  return 0;
}
