// How fast the CPU device multiplies, against the best that oneDNN gives for each number of rows.
//
//     gemm_benchmark [threads] [smollm2|llama] [rows...]
//
// For every weight of a layer and number of rows: GFLOP/s through Device::linear, those of a oneDNN product that was
// free to lay the weight out for exactly this number of rows, their ratio, and the bytes of weight that Device::linear
// went through in a second. So many copies of a weight take turns that caches do not hold them. Medians of seven.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cpu/cpu_device.hpp"

namespace {

using apb::DataType;
using apb::View;

constexpr std::size_t copies_bytes = std::size_t{192} << 20U;

struct Shape {
  std::string_view name;
  std::int64_t outputs;
  std::int64_t inputs;
};

constexpr std::array smollm2 = {Shape{"qkv", 960, 576}, Shape{"output", 576, 576}, Shape{"gate_up", 3072, 576},
                                Shape{"down", 576, 1536}, Shape{"head", 49152, 576}};
constexpr std::array llama = {Shape{"qkv", 6144, 4096}, Shape{"output", 4096, 4096}, Shape{"gate_up", 28672, 4096},
                              Shape{"down", 4096, 14336}};

/// oneDNN's own choice of everything.
class OneDnn {
 public:
  OneDnn(const Shape& shape, std::int64_t rows, std::size_t copies) {
    using dnnl::memory;
    const auto matrix = [](std::int64_t height, std::int64_t width, memory::format_tag tag) {
      return memory::desc({height, width}, memory::data_type::bf16, tag);
    };
    const dnnl::matmul::primitive_desc plan(engine_, matrix(rows, shape.inputs, memory::format_tag::ab),
                                            matrix(shape.inputs, shape.outputs, memory::format_tag::any),
                                            matrix(rows, shape.outputs, memory::format_tag::ab));
    product_ = dnnl::matmul(plan);
    for (std::size_t i = 0; i < copies; ++i) {
      std::unordered_map<int, memory> arguments;
      for (const auto& [name, description] : {std::pair{DNNL_ARG_SRC, plan.src_desc()},
                                              {DNNL_ARG_WEIGHTS, plan.weights_desc()},
                                              {DNNL_ARG_DST, plan.dst_desc()}}) {
        memory& filled = arguments[name] = memory(description, engine_);
        std::memset(filled.get_data_handle(), 0, description.get_size());
      }
      arguments_.push_back(std::move(arguments));
    }
  }
  void run(std::size_t copy) {
    product_.execute(stream_, arguments_[copy]);
    stream_.wait();
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul product_;
  std::vector<std::unordered_map<int, dnnl::memory>> arguments_;
};

class Ours {
 public:
  Ours(const Shape& shape, int threads, std::size_t copies)
      : device_(apb::make_cpu_device({.threads = threads, .compute_type = DataType::bf16})), shape_(shape) {
    const std::vector<float> zeros(static_cast<std::size_t>(shape.outputs * shape.inputs));
    const std::array matrix{apb::host_view(zeros.data(), shape.outputs, shape.inputs)};
    for (std::size_t i = 0; i < copies; ++i) weights_.push_back(device_->pack(matrix, {}));
  }
  void prepare(std::int64_t rows) {
    const auto room = [&](std::int64_t columns) {
      apb::Buffer buffer = device_->allocate(static_cast<std::size_t>(rows * columns) * 2);
      std::memset(buffer.data(), 0, buffer.bytes());
      return buffer;
    };
    x_ = room(shape_.inputs);
    out_ = room(shape_.outputs);
    rows_ = rows;
  }
  void run(std::size_t copy) {
    device_->linear(x_.view(DataType::bf16, rows_, shape_.inputs), *weights_[copy],
                    out_.view(DataType::bf16, rows_, shape_.outputs), false);
  }

 private:
  std::unique_ptr<apb::Device> device_;
  Shape shape_;
  std::vector<std::unique_ptr<apb::Weight>> weights_;
  std::int64_t rows_ = 0;
  apb::Buffer x_;
  apb::Buffer out_;
};

/// Seconds of one product, when each copy has its turn.
double seconds_of(const std::function<void(std::size_t)>& run, std::size_t copies, int calls) {
  const auto start = std::chrono::steady_clock::now();
  for (int call = 0; call < calls; ++call) run(static_cast<std::size_t>(call) % copies);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void compare(const Shape& shape, int threads, const std::vector<std::int64_t>& row_counts) {
  const auto bytes = static_cast<double>(shape.outputs * shape.inputs * 2);
  const std::size_t copies = std::max<std::size_t>(1, static_cast<std::size_t>(copies_bytes / bytes));
  Ours ours(shape, threads, copies);
  for (const std::int64_t rows : row_counts) {
    ours.prepare(rows);
    OneDnn best(shape, rows, copies);
    const auto run_ours = [&](std::size_t copy) { ours.run(copy); };
    const auto run_best = [&](std::size_t copy) { best.run(copy); };
    const double flops = bytes * static_cast<double>(rows);
    const int calls = std::max(1, static_cast<int>(6e9 / flops / 10));
    seconds_of(run_ours, copies, static_cast<int>(copies));
    seconds_of(run_best, copies, static_cast<int>(copies));
    std::vector<double> own_seconds;
    std::vector<double> best_seconds;
    for (int repeat = 0; repeat < 7; ++repeat) {
      own_seconds.push_back(seconds_of(run_ours, copies, std::min(calls, 400)));
      best_seconds.push_back(seconds_of(run_best, copies, std::min(calls, 400)));
    }
    const double own = median(own_seconds);
    fmt::print("{:8} {:5} rows {:8.1f} GFLOP/s, oneDNN {:8.1f}, ratio {:.2f}, {:6.1f} GB/s\n", shape.name, rows,
               flops / own / 1e9, flops / median(best_seconds) / 1e9, median(best_seconds) / own, bytes / own / 1e9);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  omp_set_num_threads(threads);
  const bool large = argc > 2 && std::string_view(argv[2]) == "llama";
  std::vector<std::int64_t> row_counts;
  for (int i = 3; i < argc; ++i) row_counts.push_back(std::atoll(argv[i]));
  if (row_counts.empty()) row_counts = {1, 2, 7, 16, 64, 200, 512, 1000, 2048};
  if (large) {
    for (const Shape& shape : llama) compare(shape, threads, row_counts);
  } else {
    for (const Shape& shape : smollm2) compare(shape, threads, row_counts);
  }
}
