#include "cpu/gemm.hpp"

#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/convert.hpp"
#include "cpu/onednn.hpp"

namespace apb::cpu {
namespace {

/// Weights are packed for this many rows; the layout serves any number.
constexpr std::int64_t packed_for_rows = 512;
/// Row counts vary from document to document; more products than this are not kept.
constexpr std::size_t kept_products = 256;

class PackedWeight : public Weight {
 public:
  PackedWeight(std::int64_t outputs, std::int64_t inputs, dnnl::memory packed, std::vector<float> bias)
      : Weight(outputs, inputs), packed_(std::move(packed)), bias_(std::move(bias)) {}

  dnnl::memory::desc layout() const { return packed_.get_desc(); }
  const std::byte* data() const { return static_cast<const std::byte*>(packed_.get_data_handle()); }
  bool has_bias() const { return !bias_.empty(); }
  const std::byte* bias() const { return has_bias() ? reinterpret_cast<const std::byte*>(bias_.data()) : nullptr; }

 private:
  dnnl::memory packed_;      // [inputs, outputs] for oneDNN
  std::vector<float> bias_;  // [outputs], or nothing
};

/// rows, inputs, outputs, type of the output, accumulate, bias.
using ProductKey = std::tuple<std::int64_t, std::int64_t, std::int64_t, DataType, bool, bool>;

View dense_in(Scratch& scratch, DataType type, std::int64_t rows, std::int64_t columns) {
  const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
  return {scratch.reserve(bytes), type, Space::device, rows, columns, columns};
}

bool is_dense(const ConstView& view) { return view.rows == 1 || view.stride == view.columns; }

}  // namespace

struct Gemm::State {
  State(int thread_count, DataType type) : threads(thread_count), product_type(cpu::product_type(type)) {}

  int threads;
  DataType product_type;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<ProductKey, Product> products;
  Scratch product_scratch;
  Scratch x_scratch;
  Scratch out_scratch;

  Product& product(const ProductKey& key, const PackedWeight& weight);
  void convert_rows(ConstView source, View destination) const;
};

Product& Gemm::State::product(const ProductKey& key, const PackedWeight& weight) {
  const auto found = products.find(key);
  if (found != products.end()) return found->second;
  if (products.size() >= kept_products) products.clear();
  const auto& [rows, inputs, outputs, out_type, accumulate, bias] = key;
  const ProductShape shape{.left = dense(product_type, rows, inputs),
                           .right = weight.layout(),
                           .out = dense(out_type, rows, outputs),
                           .accumulate = accumulate,
                           .bias = bias};
  return products.try_emplace(key, engine, shape).first->second;
}

void Gemm::State::convert_rows(ConstView source, View destination) const {
#pragma omp parallel for num_threads(threads) if (source.rows > 1)
  for (std::int64_t row = 0; row < source.rows; ++row) {
    convert(source.row(row), source.type, destination.row(row), destination.type, source.columns);
  }
}

Gemm::Gemm(int threads, DataType compute_type) : state_(std::make_unique<State>(threads, compute_type)) {}

Gemm::~Gemm() = default;

std::unique_ptr<Weight> Gemm::pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  const ScopedThreads scope(state_->threads);
  const DataType type = state_->product_type;
  const std::int64_t inputs = stacked.front().columns;
  std::int64_t outputs = 0;
  for (const ConstView& part : stacked) outputs += part.rows;

  std::vector<std::byte> rows(static_cast<std::size_t>(outputs * inputs) * size_of(type));
  View plain{rows.data(), type, Space::host, outputs, inputs, inputs};
  std::int64_t first = 0;
  for (const ConstView& part : stacked) {
    state_->convert_rows(part, plain.row_range(first, part.rows));
    first += part.rows;
  }

  std::vector<float> bias;
  for (const ConstView& part : biases) {
    bias.resize(bias.size() + static_cast<std::size_t>(part.columns));
    auto* const end = reinterpret_cast<std::byte*>(bias.data() + bias.size());
    convert(part.row(0), part.type, end - part.columns * static_cast<std::int64_t>(sizeof(float)), DataType::f32,
            part.columns);
  }

  const ProductShape representative{.left = dense(type, packed_for_rows, inputs),
                                    .right = any_matrix(type, inputs, outputs),
                                    .out = dense(type, packed_for_rows, outputs),
                                    .bias = !bias.empty()};
  dnnl::memory source(transposed(type, inputs, outputs), state_->engine, rows.data());
  dnnl::memory packed(plan(state_->engine, representative).weights_desc(), state_->engine);
  dnnl::reorder(source, packed).execute(state_->stream, source, packed);
  return std::make_unique<PackedWeight>(outputs, inputs, std::move(packed), std::move(bias));
}

void Gemm::linear(ConstView x, const Weight& weight, View out, bool accumulate) {
  if (x.rows == 0) return;
  const auto& packed = dynamic_cast<const PackedWeight&>(weight);
  const ScopedThreads scope(state_->threads);

  if (x.type != state_->product_type || !is_dense(x)) {
    const View copy = dense_in(state_->x_scratch, state_->product_type, x.rows, x.columns);
    state_->convert_rows(x, copy);
    x = copy;
  }
  View target = out;
  const bool direct = (out.type == DataType::f32 || out.type == state_->product_type) && is_dense(out);
  if (!direct) {
    target = dense_in(state_->out_scratch, DataType::f32, out.rows, out.columns);
    if (accumulate) state_->convert_rows(out, target);
  }
  Product& product =
      state_->product({x.rows, x.columns, out.columns, target.type, accumulate, packed.has_bias()}, packed);
  product.run(state_->stream, x.data, packed.data(), target.data,
              state_->product_scratch.reserve(product.scratch_bytes()), packed.bias());
  if (!direct) state_->convert_rows(target, out);
}

}  // namespace apb::cpu
