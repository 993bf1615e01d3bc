#include "tiny_model.hpp"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "error.hpp"

namespace apb {
namespace {

using nlohmann::json;

std::size_t product(const std::vector<std::size_t>& shape) {
  std::size_t count = 1;
  for (const auto extent : shape) count *= extent;
  return count;
}

// Standard deviation of a weight: 1 / sqrt(in) keeps unit rows unit rows; what deviates is chosen for
// attention logits of a few units (Q, K) and for layers that matter beside the residual (O, down). With a large
// embedding a tied model would only repeat its last token.
double scale_of(const std::string& name, const std::vector<std::size_t>& shape, bool tied) {
  if (name == "model.embed_tokens.weight") return tied ? 0.15 : 0.6;
  if (name.ends_with(".bias")) return 0.3;
  const double unit = 1.0 / std::sqrt(static_cast<double>(shape.back()));
  if (name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos) return 1.5 * unit;
  if (name.find("o_proj") != std::string::npos || name.find("down_proj") != std::string::npos) return 2.0 * unit;
  return unit;
}

// Uniform, from the raw generator: the standard's distributions differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : generator_(seed) {}

  std::vector<float> values(std::size_t count, double mean, double deviation) {
    std::vector<float> result(count);
    for (auto& value : result) {
      const double unit = static_cast<double>(generator_() >> 11U) * 0x1p-53;
      value = static_cast<float>(mean + deviation * std::sqrt(12.0) * (unit - 0.5));
    }
    return result;
  }

 private:
  std::mt19937_64 generator_;
};

void write_text(const std::filesystem::path& file, const std::string& text) {
  std::ofstream stream(file, std::ios::binary);
  stream << text;
  stream.flush();
  if (!stream) fail("{}: cannot write the test model", file.string());
}

// The safetensors format: header length (8 bytes, little endian), JSON header, data.
void write_safetensors(const TinyModel& model, const TensorShapes& shapes, const std::filesystem::path& file) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, shape] : shapes) {
    const auto& values = model.tensor(name);
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  write_text(file, std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data);
}

void write_shards(const TinyModel& model, const TensorShapes& shapes, const std::filesystem::path& folder) {
  const std::vector<std::string> files = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  std::vector<TensorShapes> parts(files.size());
  json weight_map = json::object();
  std::size_t bytes = 0;
  std::size_t index = 0;
  for (const auto& [name, shape] : shapes) {
    const std::size_t part = index++ % files.size();
    parts[part][name] = shape;
    weight_map[name] = files[part];
    bytes += product(shape) * sizeof(float);
  }
  for (std::size_t part = 0; part < files.size(); ++part) write_safetensors(model, parts[part], folder / files[part]);
  const json contents = {{"metadata", {{"total_size", bytes}}}, {"weight_map", weight_map}};
  write_text(folder / "model.safetensors.index.json", contents.dump(2));
}

json rope_scaling(const TinyRope& rope) {
  json result = {{"rope_type", rope.type}};
  if (rope.type == "default") return result;
  result["factor"] = rope.factor;
  if (rope.type == "linear") return result;
  result["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  if (rope.type == "llama3") {
    result["low_freq_factor"] = rope.low_freq_factor;
    result["high_freq_factor"] = rope.high_freq_factor;
    return result;
  }
  result["beta_fast"] = rope.beta_fast;
  result["beta_slow"] = rope.beta_slow;
  if (rope.mscale != 0.0) result["mscale"] = rope.mscale;
  if (rope.mscale_all_dim != 0.0) result["mscale_all_dim"] = rope.mscale_all_dim;
  return result;
}

void add_rope(const TinyModel& model, json& config) {
  json rope = rope_scaling(model.rope);
  if (model.rope_parameters) {
    rope["rope_theta"] = model.rope_theta;
    config["rope_parameters"] = rope;
  } else {
    config["rope_theta"] = model.rope_theta;
    config["rope_scaling"] = model.rope.type == "default" ? json(nullptr) : rope;
  }
}

// Architecture and model_type.
std::pair<std::string, std::string> family(const TinyShape& shape) {
  if (shape.head_norms) return {"Qwen3ForCausalLM", "qwen3"};
  if (shape.qkv_bias && !shape.output_bias) return {"Qwen2ForCausalLM", "qwen2"};
  return {"LlamaForCausalLM", "llama"};
}

json config(const TinyModel& model) {
  const auto& [architecture, type] = family(model);
  json result = {{"architectures", {architecture}},
                 {"model_type", type},
                 {"torch_dtype", "float32"},
                 {"num_hidden_layers", model.layers},
                 {"hidden_size", model.hidden},
                 {"num_attention_heads", model.heads},
                 {"num_key_value_heads", model.kv_heads},
                 {"head_dim", model.head_dim},
                 {"intermediate_size", model.intermediate},
                 {"vocab_size", model.vocabulary},
                 {"max_position_embeddings", model.max_positions},
                 {"rms_norm_eps", model.rms_eps},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", model.tied},
                 {"bos_token_id", tiny_end_of_text},
                 {"eos_token_id", tiny_im_end},
                 {"attention_dropout", 0.0},
                 {"initializer_range", 0.02},
                 {"use_cache", true}};
  add_rope(model, result);
  if (type != "llama") result["use_sliding_window"] = false;
  if (type != "qwen2") result["attention_bias"] = model.output_bias;
  if (type == "llama") result["mlp_bias"] = false;
  return result;
}

std::string utf8(unsigned code) {  // below 0x800
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0U | (code >> 6U)), static_cast<char>(0x80U | (code & 0x3FU))};
}

// Byte-level BPE writes a byte as a visible character: printable Latin-1 as it is, the others counted from U+0100.
json byte_vocabulary() {
  json vocabulary = json::object();
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    vocabulary[utf8(visible ? byte : next++)] = byte;
  }
  return vocabulary;
}

json tokenizer() {
  json added = json::array();
  const std::map<int, std::string> specials = {
      {tiny_im_start, "<|im_start|>"}, {tiny_im_end, "<|im_end|>"}, {tiny_end_of_text, "<|endoftext|>"}};
  for (const auto& [id, content] : specials) {
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", byte_vocabulary()},
            {"merges", json::array()}}}};
}

}  // namespace

std::string layer_tensor(int layer, const std::string& name) {
  return "model.layers." + std::to_string(layer) + "." + name;
}

const std::map<std::string, TinyShape>& tiny_families() {
  // Positions up to a few hundred are well beyond these original ones, and pairs of every kind of scaling occur.
  const TinyRope linear{.type = "linear", .factor = 4.0};
  const TinyRope llama3{.type = "llama3", .factor = 8.0, .original_max_position_embeddings = 96};
  const TinyRope yarn{.type = "yarn", .factor = 4.0, .original_max_position_embeddings = 64, .beta_fast = 8.0};
  TinyRope yarn_mscale = yarn;
  yarn_mscale.mscale = 0.7;
  yarn_mscale.mscale_all_dim = 1.3;
  static const std::map<std::string, TinyShape> families = {
      {"llama", {.layers = 2}},
      {"llama_attention_bias", {.layers = 2, .qkv_bias = true, .output_bias = true}},
      {"llama_linear", {.layers = 2, .rope = linear}},
      {"llama_llama3", {.layers = 2, .rope_theta = 500000.0, .rope = llama3, .rope_parameters = true}},
      {"llama_tied_yarn_mscale", {.layers = 2, .tied = true, .rope = yarn_mscale}},
      {"qwen2", {.layers = 2, .hidden = 96, .rms_eps = 1e-6, .qkv_bias = true}},
      {"qwen2_tied_yarn", {.layers = 2, .hidden = 96, .rope_theta = 1e6, .tied = true, .qkv_bias = true, .rope = yarn}},
      {"qwen3", {.layers = 2, .rope_theta = 1e6, .head_norms = true, .rope_parameters = true}},
      {"qwen3_tied_yarn", {.layers = 2, .tied = true, .head_norms = true, .rope = yarn}},
  };
  return families;
}

TinyShape tiny_gpu_shape(int layers) {
  return {.layers = layers,
          .hidden = 96,
          .heads = 6,
          .kv_heads = 2,
          .head_dim = 64,
          .intermediate = 176,
          .vocabulary = 272,
          .retaining_inner = 24};
}

TensorShapes tensor_shapes(const TinyShape& shape) {
  const auto hidden = static_cast<std::size_t>(shape.hidden);
  const auto intermediate = static_cast<std::size_t>(shape.intermediate);
  const auto vocabulary = static_cast<std::size_t>(shape.vocabulary);
  const auto query_width = static_cast<std::size_t>(shape.heads) * static_cast<std::size_t>(shape.head_dim);
  const auto key_width = static_cast<std::size_t>(shape.kv_heads) * static_cast<std::size_t>(shape.head_dim);

  TensorShapes result;
  result["model.embed_tokens.weight"] = {vocabulary, hidden};
  result["model.norm.weight"] = {hidden};
  if (!shape.tied) result["lm_head.weight"] = {vocabulary, hidden};
  for (int layer = 0; layer < shape.layers; ++layer) {
    result[layer_tensor(layer, "input_layernorm.weight")] = {hidden};
    result[layer_tensor(layer, "self_attn.q_proj.weight")] = {query_width, hidden};
    result[layer_tensor(layer, "self_attn.k_proj.weight")] = {key_width, hidden};
    result[layer_tensor(layer, "self_attn.v_proj.weight")] = {key_width, hidden};
    result[layer_tensor(layer, "self_attn.o_proj.weight")] = {hidden, query_width};
    result[layer_tensor(layer, "post_attention_layernorm.weight")] = {hidden};
    result[layer_tensor(layer, "mlp.gate_proj.weight")] = {intermediate, hidden};
    result[layer_tensor(layer, "mlp.up_proj.weight")] = {intermediate, hidden};
    result[layer_tensor(layer, "mlp.down_proj.weight")] = {hidden, intermediate};
    if (shape.qkv_bias) {
      result[layer_tensor(layer, "self_attn.q_proj.bias")] = {query_width};
      result[layer_tensor(layer, "self_attn.k_proj.bias")] = {key_width};
      result[layer_tensor(layer, "self_attn.v_proj.bias")] = {key_width};
    }
    if (shape.output_bias) result[layer_tensor(layer, "self_attn.o_proj.bias")] = {hidden};
    if (shape.head_norms) {
      result[layer_tensor(layer, "self_attn.q_norm.weight")] = {static_cast<std::size_t>(shape.head_dim)};
      result[layer_tensor(layer, "self_attn.k_norm.weight")] = {static_cast<std::size_t>(shape.head_dim)};
    }
  }
  return result;
}

TensorShapes retaining_head_shapes(const TinyShape& shape) {
  const auto kv_heads = static_cast<std::size_t>(shape.kv_heads);
  const auto inner = static_cast<std::size_t>(shape.retaining_inner);
  const auto fused_width =
      static_cast<std::size_t>(shape.heads + 2 * shape.kv_heads) * static_cast<std::size_t>(shape.head_dim);
  TensorShapes result;
  for (int layer = 0; layer < shape.layers; ++layer) {
    result[layer_tensor(layer, "self_attn.fc1.weight")] = {inner, fused_width};
    result[layer_tensor(layer, "self_attn.fc2.weight")] = {kv_heads, inner};
  }
  return result;
}

TinyModel random_tiny_model(std::uint64_t seed, const TinyShape& shape) {
  TinyModel model{shape, {}};
  Random random(seed);
  for (const auto& shapes : {tensor_shapes(shape), retaining_head_shapes(shape)}) {
    for (const auto& [name, extents] : shapes) {
      const bool norm = name.ends_with("norm.weight");
      model.tensors[name] = norm ? random.values(product(extents), 1.0, 0.2)
                                 : random.values(product(extents), 0.0, scale_of(name, extents, shape.tied));
    }
  }
  return model;
}

void write_model_folder(const TinyModel& model, const std::filesystem::path& folder, bool shards) {
  if (model.vocabulary < tiny_vocabulary) {
    fail("{}: vocabulary {} is below the tokenizer's {}", folder.string(), model.vocabulary, tiny_vocabulary);
  }
  std::filesystem::create_directories(folder);
  const TensorShapes shapes = tensor_shapes(model);
  if (shards) {
    write_shards(model, shapes, folder);
  } else {
    write_safetensors(model, shapes, folder / "model.safetensors");
  }
  write_text(folder / "config.json", config(model).dump(2));
  const json generation = {{"bos_token_id", tiny_end_of_text}, {"eos_token_id", tiny_im_end}, {"do_sample", false}};
  write_text(folder / "generation_config.json", generation.dump(2));
  write_text(folder / "tokenizer.json", tokenizer().dump(2));
}

void write_retaining_heads(const TinyModel& model, const std::filesystem::path& file) {
  write_safetensors(model, retaining_head_shapes(model), file);
}

}  // namespace apb
