#include "model/model.hpp"

#include <array>
#include <initializer_list>
#include <string>

#include "error.hpp"

namespace apb {
namespace {

Buffer norm_weight(Device& device, const Checkpoint& checkpoint, const std::string& name, int columns) {
  Buffer buffer = device.allocate(static_cast<std::size_t>(columns) * sizeof(float));
  device.upload(checkpoint.tensor(name, 1, columns), buffer.view(DataType::f32, 1, columns));
  return buffer;
}

// A projection of a layer: NAME.weight [outputs, inputs] and, with a bias, NAME.bias [outputs].
struct Projection {
  const char* name;
  std::int64_t outputs;
};

class LayerLoader {
 public:
  LayerLoader(Device& device, const Checkpoint& checkpoint, int layer)
      : device_(device), checkpoint_(checkpoint), prefix_("model.layers." + std::to_string(layer) + ".") {}

  std::unique_ptr<Weight> pack(std::initializer_list<Projection> stacked, std::int64_t inputs, bool bias) const {
    std::vector<ConstView> weights;
    std::vector<ConstView> biases;
    for (const auto& [name, outputs] : stacked) {
      weights.push_back(checkpoint_.tensor(prefix_ + name + ".weight", outputs, inputs));
      if (bias) biases.push_back(checkpoint_.tensor(prefix_ + name + ".bias", 1, outputs));
    }
    return device_.pack(weights, biases);
  }

  Buffer norm(const char* name, int columns) const {
    return norm_weight(device_, checkpoint_, prefix_ + name + ".weight", columns);
  }

 private:
  Device& device_;
  const Checkpoint& checkpoint_;
  std::string prefix_;
};

LayerWeights load_layer(Device& device, const ModelConfig& config, const Checkpoint& checkpoint, int layer) {
  const LayerLoader load(device, checkpoint, layer);
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

Model load_model(Device& device, const ModelConfig& config, const Checkpoint& checkpoint, bool with_head) {
  Model model{.config = config};
  const ConstView embedding = checkpoint.tensor("model.embed_tokens.weight", config.vocabulary, config.hidden);
  model.embedding =
      device.allocate(static_cast<std::size_t>(embedding.rows * embedding.columns) * size_of(device.compute_type()));
  device.upload(embedding, model.embedding.view(device.compute_type(), embedding.rows, embedding.columns));
  for (int layer = 0; layer < config.layers; ++layer)
    model.layers.push_back(load_layer(device, config, checkpoint, layer));
  model.final_norm = norm_weight(device, checkpoint, "model.norm.weight", config.hidden);
  if (with_head) {
    const std::array head = {
        config.tied_embeddings ? embedding : checkpoint.tensor("lm_head.weight", config.vocabulary, config.hidden)};
    model.head = device.pack(head, {});
  }
  return model;
}

std::vector<RetainingHead> load_retaining_heads(Device& device, const ModelConfig& config,
                                                const Checkpoint& checkpoint) {
  std::vector<RetainingHead> heads;
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
    const std::int64_t inner = checkpoint.rows(prefix + "fc1.weight");
    const std::array fc1 = {checkpoint.tensor(prefix + "fc1.weight", inner, config.head_shape().qkv_columns())};
    const std::array fc2 = {checkpoint.tensor(prefix + "fc2.weight", config.kv_heads, inner)};
    heads.push_back({.fc1 = device.pack(fc1, {}), .fc2 = device.pack(fc2, {})});
  }
  return heads;
}

}  // namespace apb
