// The shape of a model, read from its Hugging Face folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "device/device.hpp"

namespace apb {

/// How rotary frequencies are stretched for longer contexts than the model was first trained on (model/rope.hpp).
struct RopeScaling {
  enum class Kind { none, linear, llama3, yarn };
  Kind kind = Kind::none;
  double factor = 1.0;
  double original_positions = 0.0;     // llama3, yarn
  double low_frequency_factor = 0.0;   // llama3
  double high_frequency_factor = 0.0;  // llama3
  double beta_fast = 0.0;              // yarn
  double beta_slow = 0.0;              // yarn
  double attention_factor = 1.0;       // of cosines and sines
};

struct ModelConfig {
  std::string architecture;  // as in config.json, e.g. LlamaForCausalLM
  int layers = 0;
  int hidden = 0;    // width of the residual stream
  int heads = 0;     // query heads, a multiple of kv_heads
  int kv_heads = 0;  // key / value heads
  int head_dim = 0;  // even; heads * head_dim need not be hidden
  int intermediate = 0;
  int vocabulary = 0;
  std::int64_t max_positions = 0;  // tokens, after the scaling of positions
  double rms_epsilon = 0.0;
  double rope_theta = 0.0;
  RopeScaling rope_scaling{};
  bool qkv_bias = false;
  bool output_bias = false;              // of the attention's output projection
  bool head_norms = false;               // RMS norms of each head of Q and K before RoPE
  bool tied_embeddings = false;          // the head is the embedding
  std::vector<std::int32_t> eos_tokens;  // any of them ends an answer; may be empty

  HeadShape head_shape() const { return {heads, kv_heads, head_dim}; }
};

/// Reads config.json and, where it is there, generation_config.json, whose eos_token_id counts before config.json's.
/// Fails with file, field and value where one is missing, wrong, or not supported.
ModelConfig load_config(const std::filesystem::path& model_folder);

}  // namespace apb
