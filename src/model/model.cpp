#include "model/model.hpp"

#include <array>
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
  views.reserve(matrices.size());
  for (const HostMatrix& matrix : matrices) views.push_back(matrix.view);
  return views;
}

/// Tensor NAME.weight [outputs, inputs] and, where the weight has a bias, NAME.bias [outputs].
struct Projection {
  std::string name;
  std::int64_t outputs;
};

/// A weight to be read: where it goes, and what is stacked in it.
struct WeightPlan {
  std::unique_ptr<Weight>* target;
  std::vector<Projection> stacked;
  std::int64_t inputs;
  bool bias = false;
};

WeightShape shape_of(const WeightPlan& plan) {
  WeightShape shape{.inputs = plan.inputs, .bias = plan.bias};
  for (const Projection& part : plan.stacked) shape.outputs += part.outputs;
  return shape;
}

void fill(Device& device, const WeightSource& source, const WeightPlan& plan, Weight& weight) {
  std::vector<HostMatrix> weights;
  std::vector<HostMatrix> biases;
  for (const auto& [name, outputs] : plan.stacked) {
    weights.push_back(source.tensor(name + ".weight", outputs, plan.inputs));
    if (plan.bias) biases.push_back(source.tensor(name + ".bias", 1, outputs));
  }
  device.fill(weight, views_of(weights), views_of(biases));
}

/// Takes room for all, shared with the other ranks of the node, and reads this rank's part of them.
void load(Device& device, const WeightSource& source, const std::vector<WeightPlan>& plans) {
  std::vector<WeightShape> shapes;
  for (const WeightPlan& plan : plans) shapes.push_back(shape_of(plan));
  auto reserved = device.reserve_weights(shapes);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    if (reserved[i].filled_here) fill(device, source, plans[i], *reserved[i].weight);
    *plans[i].target = std::move(reserved[i].weight);
  }
}

std::string layer_prefix(int layer) { return "model.layers." + std::to_string(layer) + "."; }

void plan_layer(const ModelConfig& config, int number, LayerWeights& layer, std::vector<WeightPlan>& plans) {
  const std::string attention = layer_prefix(number) + "self_attn.";
  const std::string mlp = layer_prefix(number) + "mlp.";
  const std::int64_t query = config.head_shape().query_columns();
  const std::int64_t key = std::int64_t{config.kv_heads} * config.head_dim;
  const std::int64_t hidden = config.hidden;
  const std::int64_t inner = config.intermediate;
  plans.push_back({&layer.qkv,
                   {{attention + "q_proj", query}, {attention + "k_proj", key}, {attention + "v_proj", key}},
                   hidden,
                   config.qkv_bias});
  plans.push_back({&layer.attention_output, {{attention + "o_proj", hidden}}, query, config.output_bias});
  plans.push_back({&layer.gate_up, {{mlp + "gate_proj", inner}, {mlp + "up_proj", inner}}, hidden});
  plans.push_back({&layer.down, {{mlp + "down_proj", hidden}}, inner});
}

void load_norms(Device& device, const ModelConfig& config, const WeightSource& source, int number,
                LayerWeights& layer) {
  const auto norm = [&](const char* name, int columns) {
    return norm_weight(device, source, layer_prefix(number) + name + ".weight", columns);
  };
  layer.input_norm = norm("input_layernorm", config.hidden);
  layer.post_attention_norm = norm("post_attention_layernorm", config.hidden);
  if (!config.head_norms) return;
  layer.query_norm = norm("self_attn.q_norm", config.head_dim);
  layer.key_norm = norm("self_attn.k_norm", config.head_dim);
}

}  // namespace

std::size_t weight_bytes(const Model& model) {
  std::size_t bytes = 0;
  const auto add = [&](const std::unique_ptr<Weight>& weight) { bytes += weight ? weight->bytes() : 0; };
  add(model.embedding);
  add(model.own_head);
  for (const LayerWeights& layer : model.layers) {
    for (const auto* weight : {&layer.qkv, &layer.attention_output, &layer.gate_up, &layer.down}) add(*weight);
  }
  for (const RetainingHead& head : model.retaining_heads) {
    add(head.fc1);
    add(head.fc2);
  }
  return bytes;
}

Model load_model(Device& device, const ModelConfig& config, const WeightSource& source, bool with_head,
                 bool share_head) {
  Model model{.config = config};
  std::vector<WeightPlan> plans;
  plans.push_back({&model.embedding, {{"model.embed_tokens", config.vocabulary}}, config.hidden});
  model.layers.resize(static_cast<std::size_t>(config.layers));
  for (int layer = 0; layer < config.layers; ++layer) {
    plan_layer(config, layer, model.layers[static_cast<std::size_t>(layer)], plans);
  }
  if (share_head && !config.tied_embeddings) {
    plans.push_back({&model.own_head, {{"lm_head", config.vocabulary}}, config.hidden});
  }
  load(device, source, plans);
  for (int layer = 0; layer < config.layers; ++layer) {
    load_norms(device, config, source, layer, model.layers[static_cast<std::size_t>(layer)]);
  }
  model.final_norm = norm_weight(device, source, "model.norm.weight", config.hidden);
  if (with_head && !share_head && !config.tied_embeddings) {
    model.own_head =
        device.pack(std::array{source.tensor("lm_head.weight", config.vocabulary, config.hidden).view}, {});
  }
  if (with_head) model.head = config.tied_embeddings ? model.embedding.get() : model.own_head.get();
  return model;
}

std::vector<RetainingHead> load_retaining_heads(Device& device, const ModelConfig& config, const WeightSource& source) {
  std::vector<RetainingHead> heads(static_cast<std::size_t>(config.layers));
  std::vector<WeightPlan> plans;
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = layer_prefix(layer) + "self_attn.";
    const std::int64_t inner = source.rows(prefix + "fc1.weight");
    RetainingHead& head = heads[static_cast<std::size_t>(layer)];
    plans.push_back({&head.fc1, {{prefix + "fc1", inner}}, config.head_shape().qkv_columns()});
    plans.push_back({&head.fc2, {{prefix + "fc2", config.kv_heads}}, inner});
  }
  load(device, source, plans);
  return heads;
}

}  // namespace apb
