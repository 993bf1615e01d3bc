// The weights of a decoder-only transformer on a device.
#pragma once

#include <memory>
#include <vector>

#include "device/device.hpp"
#include "model/config.hpp"
#include "model/weight_source.hpp"

namespace apb {

struct LayerWeights {
  Buffer input_norm;                         // f32 [1, hidden]
  std::unique_ptr<Weight> qkv;               // [(heads + 2 kv_heads) head_dim, hidden]: Q, K, V
  Buffer query_norm;                         // f32 [1, head_dim], or nothing
  Buffer key_norm;                           // f32 [1, head_dim], or nothing
  std::unique_ptr<Weight> attention_output;  // [hidden, heads * head_dim]
  Buffer post_attention_norm;                // f32 [1, hidden]
  std::unique_ptr<Weight> gate_up;           // [2 intermediate, hidden]: gate, up
  std::unique_ptr<Weight> down;              // [hidden, intermediate]
};

/// Locret's scorer of a layer: fc2(silu(fc1(Q, K, V))).
struct RetainingHead {
  std::unique_ptr<Weight> fc1;  // [inner, (heads + 2 kv_heads) head_dim]
  std::unique_ptr<Weight> fc2;  // [kv_heads, inner]
};

struct Model {
  ModelConfig config{};
  std::unique_ptr<Weight> embedding{};  // [vocabulary, hidden]
  std::vector<LayerWeights> layers{};
  Buffer final_norm{};                           // f32 [1, hidden]
  const Weight* head = nullptr;                  // [vocabulary, hidden]; only where tokens are chosen
  std::unique_ptr<Weight> own_head{};            // where it is not the embedding
  std::vector<RetainingHead> retaining_heads{};  // one a layer, or none
};

/// Bytes of all weight matrices.
std::size_t weight_bytes(const Model& model);

/// Reads the weights onto the device. Throws Error that names the tensor when one is missing, has another shape,
/// or holds NaN or infinity. Ranks of a node read different parts: collective as Device::reserve_weights is, and the
/// weights are whole when all ranks have returned. `share_head`, the same on all of them: a head that is not the
/// embedding is shared like other weights, else each rank `with_head` has its own.
Model load_model(Device& device, const ModelConfig& config, const WeightSource& source, bool with_head,
                 bool share_head = false);

/// Reads `model.layers.N.self_attn.fc1.weight` and `.fc2.weight` for every layer, in the same way.
std::vector<RetainingHead> load_retaining_heads(Device& device, const ModelConfig& config, const WeightSource& source);

}  // namespace apb
