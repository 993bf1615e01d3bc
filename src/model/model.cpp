#include "model/model.hpp"

#include <array>
#include <initializer_list>
#include <string>
#include <utility>

#include "error.hpp"

namespace apb {
namespace {

Buffer norm_weight(Device& device, const WeightSource& source, const std::string& name, int columns) {
  Buffer buffer = device.allocate(static_cast<std::size_t>(columns) * sizeof(float));
  device.upload(source.tensor(name, 1, columns).view, buffer.view(DataType::f32, 1, columns));
  return buffer;
}

std::vector<ConstView> views_of(const std::vector<HostMatrix>& matrices) {
  std::vector<ConstView> views;
  for (const HostMatrix& matrix : matrices) views.push_back(matrix.view);
  return views;
}

// A projection of a layer: NAME.weight [outputs, inputs] and, with a bias, NAME.bias [outputs].
struct Projection {
  const char* name;
  std::int64_t outputs;
};

class LayerLoader {
 public:
  LayerLoader(Device& device, const WeightSource& source, int layer)
      : device_(device), source_(source), prefix_("model.layers." + std::to_string(layer) + ".") {}

  std::unique_ptr<Weight> pack(std::initializer_list<Projection> stacked, std::int64_t inputs, bool bias) const {
    std::vector<HostMatrix> weights;
    std::vector<HostMatrix> biases;
    for (const auto& [name, outputs] : stacked) {
      weights.push_back(source_.tensor(prefix_ + name + ".weight", outputs, inputs));
      if (bias) biases.push_back(source_.tensor(prefix_ + name + ".bias", 1, outputs));
    }
    return device_.pack(views_of(weights), views_of(biases));
  }

  Buffer norm(const char* name, int columns) const {
    return norm_weight(device_, source_, prefix_ + name + ".weight", columns);
  }

 private:
  Device& device_;
  const WeightSource& source_;
  std::string prefix_;
};

LayerWeights load_layer(Device& device, const ModelConfig& config, const WeightSource& source, int layer) {
  const LayerLoader load(device, source, layer);
  const std::int64_t query = config.head_shape().query_columns();
  const std::int64_t key = std::int64_t{config.kv_heads} * config.head_dim;
  const std::int64_t hidden = config.hidden;
  const std::int64_t inner = config.intermediate;
  return {.input_norm = load.norm("input_layernorm", config.hidden),
          .qkv = load.pack({{"self_attn.q_proj", query}, {"self_attn.k_proj", key}, {"self_attn.v_proj", key}}, hidden,
                           config.qkv_bias),
          .query_norm = config.head_norms ? load.norm("self_attn.q_norm", config.head_dim) : Buffer{},
          .key_norm = config.head_norms ? load.norm("self_attn.k_norm", config.head_dim) : Buffer{},
          .attention_output = load.pack({{"self_attn.o_proj", hidden}}, query, config.output_bias),
          .post_attention_norm = load.norm("post_attention_layernorm", config.hidden),
          .gate_up = load.pack({{"mlp.gate_proj", inner}, {"mlp.up_proj", inner}}, hidden, false),
          .down = load.pack({{"mlp.down_proj", hidden}}, inner, false)};
}

}  // namespace

Model load_model(Device& device, const ModelConfig& config, const WeightSource& source, bool with_head) {
  Model model{.config = config};
  const auto pack_head = [&](const HostMatrix& head) {
    if (with_head) model.head = device.pack(std::array{head.view}, {});
  };
  {
    const HostMatrix embedding = source.tensor("model.embed_tokens.weight", config.vocabulary, config.hidden);
    const auto [rows, columns] = std::pair(embedding.view.rows, embedding.view.columns);
    model.embedding = device.allocate(static_cast<std::size_t>(rows * columns) * size_of(device.compute_type()));
    device.upload(embedding.view, model.embedding.view(device.compute_type(), rows, columns));
    if (config.tied_embeddings) pack_head(embedding);
  }
  for (int layer = 0; layer < config.layers; ++layer) model.layers.push_back(load_layer(device, config, source, layer));
  model.final_norm = norm_weight(device, source, "model.norm.weight", config.hidden);
  if (with_head && !config.tied_embeddings) {
    pack_head(source.tensor("lm_head.weight", config.vocabulary, config.hidden));
  }
  return model;
}

std::vector<RetainingHead> load_retaining_heads(Device& device, const ModelConfig& config, const WeightSource& source) {
  std::vector<RetainingHead> heads;
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
    const std::int64_t inner = source.rows(prefix + "fc1.weight");
    const auto pack = [&](const char* name, std::int64_t rows, std::int64_t columns) {
      return device.pack(std::array{source.tensor(prefix + name, rows, columns).view}, {});
    };
    heads.push_back({.fc1 = pack("fc1.weight", inner, config.head_shape().qkv_columns()),
                     .fc2 = pack("fc2.weight", config.kv_heads, inner)});
  }
  return heads;
}

}  // namespace apb
