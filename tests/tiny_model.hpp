// Small random models for tests: the numbers in memory for the reference, and the same as a Hugging Face folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace apb {

/// RoPE scaling, its fields as in a config.json; those of other types are ignored.
struct TinyRope {
  std::string type = "default";
  double factor = 1.0;
  int original_max_position_embeddings = 0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 0.0;  // 0 (both): not in the file
  double mscale_all_dim = 0.0;
};

/// What a tiny model looks like. The defaults are no multiples of each other, and heads * head_dim is not hidden.
struct TinyShape {
  int layers = 3;
  int hidden = 42;
  int heads = 6;
  int kv_heads = 2;
  int head_dim = 16;
  int intermediate = 88;
  int vocabulary = 271;      // at least tiny_vocabulary for write_model_folder
  int retaining_inner = 20;  // width between fc1 and fc2 of the retaining heads
  double rope_theta = 10000.0;
  double rms_eps = 1e-5;
  int max_positions = 4096;
  bool tied = false;         // the head is the embedding
  bool qkv_bias = false;     // biases on Q, K and V: a Qwen2 model
  bool output_bias = false;  // and one on the output projection: a Llama model with attention_bias
  bool head_norms = false;   // norms of each head of Q and K: a Qwen3 model
  TinyRope rope{};
  bool rope_parameters = false;  // config.json spells rope_parameters with rope_theta inside, not rope_scaling
};

/// Token ids of the tokenizer in a model folder: bytes are 0..255.
inline constexpr int tiny_im_start = 256;
inline constexpr int tiny_im_end = 257;  // eos_token_id
inline constexpr int tiny_end_of_text = 258;
inline constexpr int tiny_vocabulary = 259;

/// A model; see the shape for its architecture. Tensors have their Hugging Face names and row-major [out, in] layout;
/// the retaining heads model.layers.N.self_attn.fc1.weight and fc2.weight are among them.
struct TinyModel : TinyShape {
  std::map<std::string, std::vector<float>> tensors;

  /// The tensor of that name; throws if it is missing.
  const std::vector<float>& tensor(const std::string& name) const { return tensors.at(name); }
};

/// One shape for each family and kind of RoPE scaling, by name.
const std::map<std::string, TinyShape>& tiny_families();

/// What the CUDA device computes: a head_dim of 64, and rows of whole 16 bytes.
TinyShape tiny_gpu_shape(int layers);

using TensorShapes = std::map<std::string, std::vector<std::size_t>>;

/// "model.layers.N." + name.
std::string layer_tensor(int layer, const std::string& name);

/// Names and shapes of the model's tensors, without the retaining heads.
TensorShapes tensor_shapes(const TinyShape& shape);

/// Names and shapes of the retaining heads' tensors.
TensorShapes retaining_head_shapes(const TinyShape& shape);

/// Random weights, the same on every machine; attention logits spread over a few units, greedy tokens vary.
TinyModel random_tiny_model(std::uint64_t seed, const TinyShape& shape = {});

/// Writes config.json, generation_config.json, tokenizer.json and the F32 weights: model.safetensors, or with
/// `shards` two files and model.safetensors.index.json. Makes the folder if need be; throws if it cannot write.
void write_model_folder(const TinyModel& model, const std::filesystem::path& folder, bool shards = false);

/// Writes the retaining heads' tensors to one safetensors file; throws if it cannot write.
void write_retaining_heads(const TinyModel& model, const std::filesystem::path& file);

}  // namespace apb
