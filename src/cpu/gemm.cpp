#include "cpu/gemm.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/convert.hpp"
#include "cpu/host_memory.hpp"
#include "cpu/onednn.hpp"
#include "cpu/packed_weight.hpp"

namespace apb::cpu {
namespace {

/// Row counts vary from document to document; more products than this are not kept.
constexpr std::size_t kept_products = 256;

/// rows, inputs, outputs, type of the output, accumulate, bias.
using ProductKey = std::tuple<std::int64_t, std::int64_t, std::int64_t, DataType, bool, bool>;

View dense_in(Scratch& scratch, DataType type, std::int64_t rows, std::int64_t columns) {
  const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
  return {scratch.reserve(bytes), type, Space::device, rows, columns, columns};
}

bool is_dense(const ConstView& view) { return view.rows == 1 || view.stride == view.columns; }

}  // namespace

struct Gemm::State {
  State(int thread_count, DataType type, std::shared_ptr<NodeMemory> shared)
      : threads(thread_count), product_type(cpu::product_type(type)), node(std::move(shared)) {}

  int threads;
  DataType product_type;
  std::shared_ptr<NodeMemory> node;
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
                           .right = weight.layout().description(),
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

Gemm::Gemm(int threads, DataType compute_type, std::shared_ptr<NodeMemory> node)
    : state_(std::make_unique<State>(threads, compute_type, std::move(node))) {}

Gemm::~Gemm() = default;

std::unique_ptr<Weight> Gemm::pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  std::int64_t outputs = 0;
  for (const ConstView& part : stacked) outputs += part.rows;
  const PackedLayout layout(state_->product_type, outputs, stacked.front().columns);
  auto memory = std::make_shared<const Buffer>(allocate_host_memory(PackedWeight::bytes_for(layout, !biases.empty())));
  auto* const data = memory->data();
  auto weight = std::make_unique<PackedWeight>(layout, !biases.empty(), std::move(memory), data);
  weight->fill(state_->threads, stacked, biases);
  return weight;
}

std::vector<ReservedWeight> Gemm::reserve(std::span<const WeightShape> shapes) {
  std::vector<PackedLayout> layouts;
  std::size_t bytes = 0;
  for (const auto& [outputs, inputs, bias] : shapes) {
    bytes += PackedWeight::bytes_for(layouts.emplace_back(state_->product_type, outputs, inputs), bias);
  }
  NodeMemory* const node = state_->node.get();
  const auto memory = std::make_shared<const Buffer>(node == nullptr ? allocate_host_memory(bytes)
                                                                     : node->allocate(bytes, available_host_memory()));
  std::vector<std::size_t> filled_by(node == nullptr ? 1 : static_cast<std::size_t>(node->size()));  // bytes a rank
  const auto own = filled_by.begin() + (node == nullptr ? 0 : node->rank());
  std::vector<ReservedWeight> weights;
  std::byte* data = memory->data();
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const std::size_t size = PackedWeight::bytes_for(layouts[i], shapes[i].bias);
    const auto least = std::min_element(filled_by.begin(), filled_by.end());
    *least += size;
    weights.push_back({std::make_unique<PackedWeight>(layouts[i], shapes[i].bias, memory, data), least == own});
    data += size;
  }
  return weights;
}

void Gemm::fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) const {
  dynamic_cast<PackedWeight&>(weight).fill(state_->threads, stacked, biases);
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
      state_->product({x.rows, x.columns, out.columns, target.type, accumulate, packed.bias() != nullptr}, packed);
  product.run(state_->stream, x.data, packed.data(), target.data,
              state_->product_scratch.reserve(product.scratch_bytes()),
              reinterpret_cast<const std::byte*>(packed.bias()));
  if (!direct) state_->convert_rows(target, out);
}

}  // namespace apb::cpu
