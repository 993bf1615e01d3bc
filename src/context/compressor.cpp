#include "context/compressor.hpp"

#include <algorithm>

#include "error.hpp"

namespace apb {
namespace {

constexpr int published_pool_window = 5;

/// Locret (arXiv 2410.01805), as APB uses it: fc2(silu(fc1(Q, K, V))).
class RetainingHeads : public Compressor {
 public:
  RetainingHeads(Device& device, const Model& model) : device_(device), heads_(model.retaining_heads) {
    std::int64_t inner = 0;
    for (const auto& head : heads_) inner = std::max(inner, head.fc1->outputs());
    inner_bytes_ =
        device.allocate(static_cast<std::size_t>(device.row_chunk() * inner) * size_of(device.compute_type()));
  }

  void score_rows(int layer, ConstView qkv, View scores) override {
    const auto& head = heads_.at(static_cast<std::size_t>(layer));
    const View inner = inner_bytes_.view(device_.compute_type(), qkv.rows, head.fc1->outputs());
    device_.linear(qkv, *head.fc1, inner, false);
    device_.silu(inner);
    device_.linear(inner, *head.fc2, scores, false);
  }
  int pool_window() const override { return published_pool_window; }

 private:
  Device& device_;
  const std::vector<RetainingHead>& heads_;
  Buffer inner_bytes_;
};

/// Spava (arXiv 2601.21444): the mean query's dot product with each key.
class QuerySimilarity : public Compressor {
 public:
  QuerySimilarity(Device& device, const HeadShape& shape)
      : device_(device),
        shape_(shape),
        mean_(device.allocate(static_cast<std::size_t>(shape.kv_heads * shape.head_dim) * sizeof(float))) {}

  void begin_layer(ConstView query) override { device_.mean_query(shape_, query, mean()); }
  void score_block(int /*layer*/, std::int64_t /*first_position*/, SlotRange keys, View scores) override {
    device_.score_similarity(shape_, mean(), keys, scores);
  }
  int pool_window() const override { return published_pool_window; }

 private:
  View mean() const { return mean_.view(DataType::f32, shape_.kv_heads, shape_.head_dim); }

  Device& device_;
  HeadShape shape_;
  Buffer mean_;
};

/// For ablation.
class Random : public Compressor {
 public:
  Random(Device& device, std::uint64_t seed, std::uint64_t document)
      : device_(device), seed_(seed), document_(document) {}
  void score_block(int layer, std::int64_t first_position, SlotRange /*keys*/, View scores) override {
    device_.score_random({seed_, document_, static_cast<std::uint64_t>(layer)}, first_position, scores);
  }

 private:
  Device& device_;
  std::uint64_t seed_;
  std::uint64_t document_;
};

/// For ablation.
class Recent : public Compressor {
 public:
  explicit Recent(Device& device) : device_(device) {}
  void score_block(int /*layer*/, std::int64_t first_position, SlotRange /*keys*/, View scores) override {
    device_.score_recent(first_position, scores);
  }

 private:
  Device& device_;
};

}  // namespace

std::unique_ptr<Compressor> make_compressor(const MethodOptions& options, Device& device, const Model& model,
                                            std::uint64_t document) {
  switch (options.compressor) {
    case CompressorKind::retaining_heads:
      if (model.retaining_heads.empty()) {
        fail_usage("--compressor retaining-heads needs --retaining-heads FILE (safetensors)");
      }
      return std::make_unique<RetainingHeads>(device, model);
    case CompressorKind::query_similarity:
      return std::make_unique<QuerySimilarity>(device, model.config.head_shape());
    case CompressorKind::random:
      return std::make_unique<Random>(device, options.seed, document);
    case CompressorKind::recent:
      return std::make_unique<Recent>(device);
  }
  fail_usage("unknown compressor");
}

}  // namespace apb
