#include "model/model.hpp"

#include <array>
#include <string>

#include "error.hpp"

namespace apb {
namespace {

Buffer norm_weight(Device& device, const Checkpoint& checkpoint, const std::string& name, int hidden) {
  Buffer buffer = device.allocate(static_cast<std::size_t>(hidden) * sizeof(float));
  device.upload(checkpoint.tensor(name, 1, hidden), buffer.view(DataType::f32, 1, hidden));
  return buffer;
}

LayerWeights load_layer(Device& device, const ModelConfig& config, const Checkpoint& checkpoint, int layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const auto tensor = [&](const char* name, std::int64_t rows, std::int64_t columns) {
    return checkpoint.tensor(prefix + name + ".weight", rows, columns);
  };
  const int query_columns = config.heads * config.head_dim;
  const int key_columns = config.kv_heads * config.head_dim;
  const std::array qkv = {tensor("self_attn.q_proj", query_columns, config.hidden),
                          tensor("self_attn.k_proj", key_columns, config.hidden),
                          tensor("self_attn.v_proj", key_columns, config.hidden)};
  const std::array output = {tensor("self_attn.o_proj", config.hidden, query_columns)};
  const std::array gate_up = {tensor("mlp.gate_proj", config.intermediate, config.hidden),
                              tensor("mlp.up_proj", config.intermediate, config.hidden)};
  const std::array down = {tensor("mlp.down_proj", config.hidden, config.intermediate)};
  return {
      .input_norm = norm_weight(device, checkpoint, prefix + "input_layernorm.weight", config.hidden),
      .qkv = device.pack(qkv),
      .attention_output = device.pack(output),
      .post_attention_norm = norm_weight(device, checkpoint, prefix + "post_attention_layernorm.weight", config.hidden),
      .gate_up = device.pack(gate_up),
      .down = device.pack(down)};
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
    model.head = device.pack(head);
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
    heads.push_back({.fc1 = device.pack(fc1), .fc2 = device.pack(fc2)});
  }
  return heads;
}

}  // namespace apb
