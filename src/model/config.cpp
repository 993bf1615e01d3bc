#include "model/config.hpp"

#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "model/json_file.hpp"

namespace apb {
namespace {

using nlohmann::json;

constexpr std::int64_t largest_int = std::numeric_limits<int>::max();

// An object of a JSON file, read field by field; a null field counts as missing.
class Fields {
 public:
  Fields(std::string file, std::string prefix, const json& object)
      : file_(std::move(file)), prefix_(std::move(prefix)), object_(object) {}

  bool has(const char* name) const { return object_.contains(name) && !object_[name].is_null(); }

  const json& value(const char* name) const {
    if (!has(name)) fail("{}: field {}{} is missing", file_, prefix_, name);
    return object_[name];
  }

  [[noreturn]] void reject(const char* name, std::string_view expected) const {
    fail("{}: field {}{} is {}, {}", file_, prefix_, name, value(name).dump(), expected);
  }

  std::int64_t positive_integer(const char* name, std::int64_t largest = largest_int) const {
    const json& found = value(name);
    if (!found.is_number_unsigned() || found.get<std::uint64_t>() == 0 ||
        found.get<std::uint64_t>() > static_cast<std::uint64_t>(largest)) {
      reject(name, fmt::format("expected an integer from 1 to {}", largest));
    }
    return found.get<std::int64_t>();
  }

  int positive_int(const char* name) const { return static_cast<int>(positive_integer(name)); }

  double positive_number(const char* name) const {
    const json& found = value(name);
    if (!found.is_number() || !(found.get<double>() > 0.0)) reject(name, "expected a number above 0");
    return found.get<double>();
  }

  bool boolean(const char* name, bool if_missing) const {
    if (!has(name)) return if_missing;
    if (!value(name).is_boolean()) reject(name, "expected true or false");
    return value(name).get<bool>();
  }

  // Fails where the field is there and is anything but the one value that is supported.
  void expect(const char* name, const json& supported) const {
    if (has(name) && value(name) != supported) reject(name, fmt::format("supported: {}", supported.dump()));
  }

  Fields object(const char* name) const {
    if (!value(name).is_object()) reject(name, "expected an object");
    return {file_, fmt::format("{}{}.", prefix_, name), value(name)};
  }

  const std::string& file() const { return file_; }

 private:
  std::string file_;
  std::string prefix_;  // "outer." for the fields of an object inside the file's
  const json& object_;
};

std::string read_architecture(const Fields& config) {
  const json supported = {"LlamaForCausalLM"};
  const json& found = config.value("architectures");
  if (found != supported) config.reject("architectures", fmt::format("supported: {}", supported.dump()));
  return found[0].get<std::string>();
}

void check_features(const Fields& config) {
  config.expect("hidden_act", "silu");
  config.expect("attention_bias", false);
  config.expect("mlp_bias", false);
  config.expect("partial_rotary_factor", 1.0);
  if (config.has("quantization_config")) {
    config.reject("quantization_config", "quantised checkpoints are not supported; use one in BF16, F16 or F32");
  }
}

// Both spellings: rope_scaling beside rope_theta, and rope_parameters with rope_theta inside.
double read_rope_theta(const Fields& config) {
  std::optional<double> theta;
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(name)) continue;
    const Fields rope = config.object(name);
    if (!rope.has("type")) rope.value("rope_type");
    rope.expect("rope_type", "default");
    rope.expect("type", "default");
    rope.expect("partial_rotary_factor", 1.0);
    if (rope.has("rope_theta")) theta = rope.positive_number("rope_theta");
  }
  if (theta) return *theta;
  return config.has("rope_theta") ? config.positive_number("rope_theta") : 10000.0;  // early Llama-2 files have none
}

std::vector<std::int32_t> read_eos_tokens(const Fields& fields, int vocabulary) {
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

void check_heads(const Fields& config, const ModelConfig& model) {
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

int read_head_dim(const Fields& config, int hidden, int heads) {
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
  const Fields config(file.string(), "", object);

  ModelConfig model;
  model.architecture = read_architecture(config);
  check_features(config);
  model.layers = config.positive_int("num_hidden_layers");
  model.hidden = config.positive_int("hidden_size");
  model.heads = config.positive_int("num_attention_heads");
  model.kv_heads = config.has("num_key_value_heads") ? config.positive_int("num_key_value_heads") : model.heads;
  model.head_dim = read_head_dim(config, model.hidden, model.heads);
  model.intermediate = config.positive_int("intermediate_size");
  model.vocabulary = config.positive_int("vocab_size");
  model.max_positions = config.positive_integer("max_position_embeddings", std::numeric_limits<std::int64_t>::max());
  model.rms_epsilon = config.positive_number("rms_norm_eps");
  model.rope_theta = read_rope_theta(config);
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  check_heads(config, model);

  model.eos_tokens = read_eos_tokens(config, model.vocabulary);
  const auto generation_file = model_folder / "generation_config.json";
  if (std::filesystem::exists(generation_file)) {
    const json generation_object = read_json_object(generation_file);
    const Fields generation(generation_file.string(), "", generation_object);
    if (generation.has("eos_token_id")) model.eos_tokens = read_eos_tokens(generation, model.vocabulary);
  }
  return model;
}

}  // namespace apb
