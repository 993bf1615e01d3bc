#include "model/shapes.hpp"

#include <algorithm>
#include <utility>

#include "error.hpp"

namespace apb {
namespace {

using NamedShape = std::pair<std::string, ModelConfig>;

constexpr RopeScaling llama3_scaling{.kind = RopeScaling::Kind::llama3,
                                     .factor = 8.0,
                                     .original_positions = 8192.0,
                                     .low_frequency_factor = 1.0,
                                     .high_frequency_factor = 4.0};

/// As in the models' own config.json; `tiny` is ours.
const std::vector<NamedShape>& shapes() {
  static const std::vector<NamedShape> list = {
      {"llama-3.1-8b",
       {.architecture = "LlamaForCausalLM",
        .layers = 32,
        .hidden = 4096,
        .heads = 32,
        .kv_heads = 8,
        .head_dim = 128,
        .intermediate = 14336,
        .vocabulary = 128256,
        .max_positions = 131072,
        .rms_epsilon = 1e-5,
        .rope_theta = 500000.0,
        .rope_scaling = llama3_scaling}},
      {"qwen2.5-14b",
       {.architecture = "Qwen2ForCausalLM",
        .layers = 48,
        .hidden = 5120,
        .heads = 40,
        .kv_heads = 8,
        .head_dim = 128,
        .intermediate = 13824,
        .vocabulary = 152064,
        .max_positions = 131072,
        .rms_epsilon = 1e-5,
        .rope_theta = 1000000.0,
        .qkv_bias = true}},
      {"yi-34b",
       {.architecture = "LlamaForCausalLM",
        .layers = 60,
        .hidden = 7168,
        .heads = 56,
        .kv_heads = 8,
        .head_dim = 128,
        .intermediate = 20480,
        .vocabulary = 64000,
        .max_positions = 200000,
        .rms_epsilon = 1e-5,
        .rope_theta = 10000000.0}},
      {"smollm2-135m",
       {.architecture = "LlamaForCausalLM",
        .layers = 30,
        .hidden = 576,
        .heads = 9,
        .kv_heads = 3,
        .head_dim = 64,
        .intermediate = 1536,
        .vocabulary = 49152,
        .max_positions = 8192,
        .rms_epsilon = 1e-5,
        .rope_theta = 100000.0,
        .tied_embeddings = true}},
      {"tiny",
       {.architecture = "LlamaForCausalLM",
        .layers = 3,
        .hidden = 64,
        .heads = 4,
        .kv_heads = 2,
        .head_dim = 32,
        .intermediate = 160,
        .vocabulary = 512,
        .max_positions = 8192,
        .rms_epsilon = 1e-5,
        .rope_theta = 10000.0}},
  };
  return list;
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const auto& [name, config] : shapes()) names.push_back(name);
  return names;
}

ModelConfig shape_named(std::string_view name) {
  const auto found =
      std::find_if(shapes().begin(), shapes().end(), [&](const auto& shape) { return shape.first == name; });
  if (found == shapes().end()) fail("there is no shape \"{}\"; known: {}", name, fmt::join(shape_names(), ", "));
  return found->second;
}

}  // namespace apb
