#include "model/config.hpp"

#include <array>
#include <limits>

#include "error.hpp"
#include "model/json_fields.hpp"
#include "model/json_file.hpp"
#include "model/rope_config.hpp"

namespace apb {
namespace {

using nlohmann::json;

// What sets an architecture's tensors apart from the others'.
struct Architecture {
  const char* name;
  bool qkv_bias;    // always; in the others as attention_bias says, which then holds for the output projection, too
  bool head_norms;  // of Q and K
};

constexpr std::array architectures = {
    Architecture{"LlamaForCausalLM", false, false},
    Architecture{"Qwen2ForCausalLM", true, false},
    Architecture{"Qwen3ForCausalLM", false, true},
};

const Architecture& read_architecture(const JsonFields& config) {
  json supported = json::array();
  for (const auto& architecture : architectures) {
    if (config.value("architectures") == json::array({architecture.name})) return architecture;
    supported.push_back(architecture.name);
  }
  config.reject("architectures", fmt::format("supported: one of {}", supported.dump()));
}

void read_features(const JsonFields& config, ModelConfig& model) {
  const Architecture& architecture = read_architecture(config);
  const bool attention_bias = !architecture.qkv_bias && config.boolean("attention_bias", false);
  model.architecture = architecture.name;
  model.qkv_bias = architecture.qkv_bias || attention_bias;
  model.output_bias = attention_bias;
  model.head_norms = architecture.head_norms;
  config.expect("hidden_act", "silu");
  config.expect("mlp_bias", false);
  config.expect("partial_rotary_factor", 1.0);
  config.expect("use_sliding_window", false);
  if (config.has("layer_types")) {
    config.expect("layer_types", json(config.value("layer_types").size(), "full_attention"));
  }
  if (config.has("quantization_config")) {
    config.reject("quantization_config", "quantised checkpoints are not supported; use one in BF16, F16 or F32");
  }
}

std::vector<std::int32_t> read_eos_tokens(const JsonFields& fields, int vocabulary) {
  const char* const name = "eos_token_id";
  if (!fields.has(name)) return {};
  const json& found = fields.value(name);
  std::vector<std::int32_t> tokens;
  for (const auto& token : found.is_array() ? found : json::array({found})) {
    if (!token.is_number_unsigned() || token.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary)) {
      fields.reject(name, fmt::format("expected a token id, or a list of them, below vocab_size {}", vocabulary));
    }
    tokens.push_back(token.get<std::int32_t>());
  }
  return tokens;
}

void check_heads(const JsonFields& config, const ModelConfig& model) {
  if (model.heads % model.kv_heads != 0) {
    fail("{}: field num_attention_heads is {}, which is no multiple of num_key_value_heads {}", config.file(),
         model.heads, model.kv_heads);
  }
  if (model.head_dim % 2 != 0) {
    fail("{}: field head_dim is {}, but rotary embeddings need it even", config.file(), model.head_dim);
  }
  const auto head_count = model.heads + 2 * static_cast<std::int64_t>(model.kv_heads);
  if (head_count > largest_int / model.head_dim) {
    fail("{}: fields num_attention_heads {}, num_key_value_heads {} and head_dim {} make rows of more than {} numbers",
         config.file(), model.heads, model.kv_heads, model.head_dim, largest_int);
  }
}

int read_head_dim(const JsonFields& config, int hidden, int heads) {
  if (config.has("head_dim")) return config.positive_int("head_dim");
  if (hidden % heads != 0) {
    fail("{}: field hidden_size is {}, which is no multiple of num_attention_heads {}, and head_dim is missing",
         config.file(), hidden, heads);
  }
  return hidden / heads;
}

}  // namespace

ModelConfig load_config(const std::filesystem::path& model_folder) {
  const auto file = model_folder / "config.json";
  const json object = read_json_object(file);
  const JsonFields config(file.string(), "", object);

  ModelConfig model;
  read_features(config, model);
  model.layers = config.positive_int("num_hidden_layers");
  model.hidden = config.positive_int("hidden_size");
  model.heads = config.positive_int("num_attention_heads");
  model.kv_heads = config.has("num_key_value_heads") ? config.positive_int("num_key_value_heads") : model.heads;
  model.head_dim = read_head_dim(config, model.hidden, model.heads);
  model.intermediate = config.positive_int("intermediate_size");
  model.vocabulary = config.positive_int("vocab_size");
  model.max_positions = config.positive_integer("max_position_embeddings", std::numeric_limits<std::int64_t>::max());
  model.rms_epsilon = config.positive_number("rms_norm_eps");
  read_rope(config, model);
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  check_heads(config, model);

  model.eos_tokens = read_eos_tokens(config, model.vocabulary);
  const auto generation_file = model_folder / "generation_config.json";
  if (std::filesystem::exists(generation_file)) {
    const json generation_object = read_json_object(generation_file);
    const JsonFields generation(generation_file.string(), "", generation_object);
    if (generation.has("eos_token_id")) model.eos_tokens = read_eos_tokens(generation, model.vocabulary);
  }
  return model;
}

}  // namespace apb
