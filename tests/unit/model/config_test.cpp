#include "model/config.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "expect_error.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

using nlohmann::json;

json small_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"num_hidden_layers", 5},
          {"hidden_size", 60},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 3},
          {"intermediate_size", 77},
          {"vocab_size", 101},
          {"max_position_embeddings", 5'000'000'000},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 500000},
          {"rope_scaling", nullptr},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true},
          {"eos_token_id", 7}};
}

class ConfigTest : public testing::Test {
 protected:
  ModelConfig load(const json& config) const {
    folder_.write("config.json", config.dump());
    return load_config(folder_.path());
  }

  ModelConfig load_with_generation(const json& config, const json& generation) const {
    folder_.write("generation_config.json", generation.dump());
    return load(config);
  }

  // The small configuration with one field changed, or removed where the value is null.
  void expect_rejected(const std::string& field, const json& value, std::vector<std::string> parts) const {
    json config = small_config();
    if (value.is_null()) {
      config.erase(field);
    } else {
      config[field] = value;
    }
    parts.push_back((folder_.path() / "config.json").string());
    SCOPED_TRACE(field + " = " + value.dump());
    expect_error([&] { load(config); }, parts);
  }

  TemporaryFolder folder_;
};

TEST_F(ConfigTest, ReadsAllFields) {
  const ModelConfig config = load(small_config());
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.layers, 5);
  EXPECT_EQ(config.hidden, 60);
  EXPECT_EQ(config.heads, 6);
  EXPECT_EQ(config.kv_heads, 3);
  EXPECT_EQ(config.head_dim, 10);  // from hidden_size
  EXPECT_EQ(config.intermediate, 77);
  EXPECT_EQ(config.vocabulary, 101);
  EXPECT_EQ(config.max_positions, 5'000'000'000);
  EXPECT_EQ(config.rms_epsilon, 1e-6);
  EXPECT_EQ(config.rope_theta, 500000.0);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.eos_tokens, std::vector<std::int32_t>{7});
  EXPECT_EQ(config.head_shape().heads, 6);
  EXPECT_EQ(config.head_shape().kv_heads, 3);
  EXPECT_EQ(config.head_shape().head_dim, 10);
}

TEST_F(ConfigTest, ReadsATinyModelFolder) {
  const TinyModel model = random_tiny_model(3);
  write_model_folder(model, folder_.path());
  const ModelConfig config = load_config(folder_.path());
  EXPECT_EQ(config.head_dim, model.head_dim);
  EXPECT_NE(config.head_dim, config.hidden / config.heads);
  EXPECT_EQ(config.max_positions, model.max_positions);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.eos_tokens, std::vector<std::int32_t>{tiny_im_end});
}

TEST_F(ConfigTest, MissingFieldsThatHaveADefault) {
  json config = small_config();
  for (const char* name :
       {"num_key_value_heads", "rope_theta", "rope_scaling", "hidden_act", "tie_word_embeddings", "eos_token_id"}) {
    config.erase(name);
  }
  const ModelConfig model = load(config);
  EXPECT_EQ(model.kv_heads, 6);
  EXPECT_EQ(model.rope_theta, 10000.0);
  EXPECT_FALSE(model.tied_embeddings);
  EXPECT_TRUE(model.eos_tokens.empty());
}

TEST_F(ConfigTest, WhatSetsTheFamiliesApart) {
  json config = small_config();
  const ModelConfig llama = load(config);
  EXPECT_FALSE(llama.qkv_bias || llama.output_bias || llama.head_norms);
  config["attention_bias"] = true;
  const ModelConfig biased = load(config);
  EXPECT_TRUE(biased.qkv_bias && biased.output_bias && !biased.head_norms);

  config = small_config();
  config["architectures"] = {"Qwen2ForCausalLM"};
  for (const json& sliding : {json(nullptr), json(false)}) {
    config["use_sliding_window"] = sliding;
    const ModelConfig qwen2 = load(config);
    EXPECT_TRUE(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.head_norms);
  }

  config["architectures"] = {"Qwen3ForCausalLM"};
  config["layer_types"] = json(5, "full_attention");
  const ModelConfig qwen3 = load(config);
  EXPECT_TRUE(!qwen3.qkv_bias && !qwen3.output_bias && qwen3.head_norms);
  EXPECT_EQ(qwen3.architecture, "Qwen3ForCausalLM");
}

TEST_F(ConfigTest, ReadsTheConfigOfEveryTinyFamily) {
  for (const auto& [name, shape] : tiny_families()) {
    SCOPED_TRACE(name);
    write_model_folder(random_tiny_model(3, shape), folder_.path());
    const ModelConfig config = load_config(folder_.path());
    EXPECT_EQ(config.qkv_bias, shape.qkv_bias);
    EXPECT_EQ(config.output_bias, shape.output_bias);
    EXPECT_EQ(config.head_norms, shape.head_norms);
    EXPECT_EQ(config.rope_theta, shape.rope_theta);
    EXPECT_EQ(config.rope_scaling.factor, shape.rope.factor);
    EXPECT_EQ(config.rope_scaling.original_positions, shape.rope.original_max_position_embeddings);
  }
}

TEST_F(ConfigTest, RopeScalingInEverySpelling) {
  const json fields = {
      {"factor", 8}, {"original_max_position_embeddings", 256}, {"low_freq_factor", 1.5}, {"high_freq_factor", 4}};
  for (const char* object : {"rope_scaling", "rope_parameters"}) {
    for (const char* kind : {"rope_type", "type"}) {
      json config = small_config();
      config[object] = fields;
      config[object][kind] = "llama3";
      const ModelConfig model = load(config);
      EXPECT_EQ(model.rope_theta, 500000.0);
      EXPECT_EQ(model.rope_scaling.kind, RopeScaling::Kind::llama3);
      EXPECT_EQ(model.rope_scaling.factor, 8.0);
      EXPECT_EQ(model.rope_scaling.original_positions, 256.0);
      EXPECT_EQ(model.rope_scaling.low_frequency_factor, 1.5);
      EXPECT_EQ(model.rope_scaling.high_frequency_factor, 4.0);
      EXPECT_EQ(model.rope_scaling.attention_factor, 1.0);
      EXPECT_EQ(model.max_positions, 5'000'000'000);
    }
  }
}

TEST_F(ConfigTest, BothRopeSpellingsAtOnceMustAgree) {
  json config = small_config();
  config["rope_parameters"] = config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.5}};
  EXPECT_EQ(load(config).rope_scaling.kind, RopeScaling::Kind::linear);
  EXPECT_EQ(load(config).rope_scaling.factor, 2.5);
  config["rope_scaling"]["factor"] = 3;
  expect_error([&] { load(config); }, {"/config.json", "rope_scaling", "\"factor\":3", "rope_parameters"});
}

TEST_F(ConfigTest, YarnAttentionFactor) {
  const auto factor_with = [&](const json& more) {
    json config = small_config();
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", std::exp(2.0)}, {"original_max_position_embeddings", 4096}};
    config["rope_scaling"].update(more);
    return load(config).rope_scaling.attention_factor;
  };
  EXPECT_NEAR(factor_with(json::object()), 1.2, 1e-12);  // 0.1 ln(factor) + 1
  EXPECT_NEAR(factor_with({{"factor", 0.5}}), 1.0, 1e-12);
  EXPECT_EQ(factor_with({{"attention_factor", 0.75}, {"mscale", 3}, {"mscale_all_dim", 2}}), 0.75);
  EXPECT_NEAR(factor_with({{"mscale", 3}, {"mscale_all_dim", 2}}), 1.6 / 1.4, 1e-12);
  EXPECT_NEAR(factor_with({{"mscale", 3}}), 1.2, 1e-12);  // both, or none
  EXPECT_NEAR(factor_with({{"mscale", 3}, {"mscale_all_dim", 0}}), 1.2, 1e-12);
}

TEST_F(ConfigTest, YarnRotationsHaveADefault) {
  json config = small_config();
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 4096}};
  EXPECT_EQ(load(config).rope_scaling.beta_fast, 32.0);
  EXPECT_EQ(load(config).rope_scaling.beta_slow, 1.0);
  config["rope_scaling"].update({{"beta_fast", 20}, {"beta_slow", 2.5}});
  EXPECT_EQ(load(config).rope_scaling.beta_fast, 20.0);
  EXPECT_EQ(load(config).rope_scaling.beta_slow, 2.5);
}

TEST_F(ConfigTest, ScalingStretchesThePositions) {
  json config = small_config();
  config["max_position_embeddings"] = 4096;
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  EXPECT_EQ(load(config).max_positions, 10240);
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 4096}};
  EXPECT_EQ(load(config).max_positions, 16384);
  config["max_position_embeddings"] = 16500;
  EXPECT_EQ(load(config).max_positions, 16500);
  config["rope_scaling"]["factor"] = 1e300;
  EXPECT_EQ(load(config).max_positions, std::int64_t{1} << 62);
}

TEST_F(ConfigTest, DefaultRopeInEverySpelling) {
  json config = small_config();
  config["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_EQ(load(config).rope_theta, 500000.0);
  config["rope_scaling"] = {{"type", "default"}};
  EXPECT_EQ(load(config).rope_theta, 500000.0);
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 12345.5}};
  EXPECT_EQ(load(config).rope_theta, 12345.5);
}

TEST_F(ConfigTest, EndTokensOfTheGenerationConfigCount) {
  const std::vector<std::int32_t> two = {100, 3};
  json config = small_config();
  config["eos_token_id"] = two;
  EXPECT_EQ(load(config).eos_tokens, two);
  EXPECT_EQ(load_with_generation(small_config(), {{"eos_token_id", two}}).eos_tokens, two);
  EXPECT_EQ(load_with_generation(config, {{"eos_token_id", 9}}).eos_tokens, std::vector<std::int32_t>{9});
  EXPECT_EQ(load_with_generation(config, {{"do_sample", false}}).eos_tokens, two);
}

TEST_F(ConfigTest, FilesThatCannotBeRead) {
  expect_error([&] { load_config(folder_.path() / "nowhere"); }, {"nowhere/config.json", "cannot be opened"});
  folder_.write("config.json", "{\"architectures\": [");
  expect_error([&] { load_config(folder_.path()); }, {"/config.json", "not valid JSON", "line 1"});
  expect_error([&] { load(json::array()); }, {"/config.json", "array", "object"});
  folder_.write("generation_config.json", "{");
  expect_error([&] { load(small_config()); }, {"/generation_config.json", "not valid JSON"});
}

TEST_F(ConfigTest, WhatIsNotSupported) {
  expect_rejected("architectures", {"MambaForCausalLM"}, {"architectures", "MambaForCausalLM", "LlamaForCausalLM"});
  expect_rejected("architectures", "LlamaForCausalLM", {"architectures", "supported"});
  expect_rejected("hidden_act", "gelu", {"hidden_act", "gelu", "silu"});
  expect_rejected("mlp_bias", true, {"mlp_bias", "true", "false"});
  expect_rejected("partial_rotary_factor", 0.5, {"partial_rotary_factor", "0.5", "1.0"});
  expect_rejected("quantization_config", {{"bits", 4}}, {"quantization_config", "bits", "BF16"});
  expect_rejected("use_sliding_window", true, {"use_sliding_window", "true", "false"});
  expect_rejected("layer_types", {"full_attention", "sliding_attention"}, {"layer_types", "sliding_attention"});
}

TEST_F(ConfigTest, WrongRopeScaling) {
  const json factor = {{"rope_type", "linear"}, {"factor", 2}};
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8},
                       {"original_max_position_embeddings", 8192},
                       {"low_freq_factor", 1},
                       {"high_freq_factor", 4}};
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 4096}};
  for (const json& good : {factor, llama3, yarn}) {
    for (const auto& [name, value] : good.items()) {
      SCOPED_TRACE(good.dump());
      json bad = good;
      bad.erase(name);
      expect_rejected("rope_scaling", bad, {"rope_scaling." + name, "missing"});
      bad[name] = -3;
      expect_rejected("rope_parameters", bad, {"rope_parameters." + name, "is -3"});
      bad[name] = "much";
      expect_rejected("rope_scaling", bad, {"rope_scaling." + name, "much"});
    }
  }
  const auto changed = [](json rope, const json& more) {
    rope.update(more);
    return rope;
  };
  expect_rejected("rope_scaling", {{"type", "dynamic"}, {"factor", 2}}, {"rope_scaling.type", "dynamic", "llama3"});
  expect_rejected("rope_scaling", changed(yarn, {{"rope_type", "longrope"}}), {"rope_scaling.rope_type", "longrope"});
  expect_rejected("rope_scaling", "linear", {"rope_scaling", "linear", "object"});
  expect_rejected("rope_scaling", changed(llama3, {{"high_freq_factor", 1}}), {"high_freq_factor", "is 1", "low_freq"});
  expect_rejected("rope_scaling", changed(yarn, {{"beta_fast", 1}}), {"rope_scaling.beta_fast", "is 1", "beta_slow 1"});
  expect_rejected("rope_scaling", changed(yarn, {{"beta_slow", 40}}), {"rope_scaling.beta_fast", "32", "beta_slow 40"});
  expect_rejected("rope_scaling", changed(yarn, {{"attention_factor", 0}}), {"attention_factor", "is 0"});
  expect_rejected("rope_scaling", changed(yarn, {{"mscale", -1}}), {"rope_scaling.mscale", "is -1"});
  expect_rejected("rope_scaling", changed(yarn, {{"truncate", false}}), {"rope_scaling.truncate", "false", "true"});
  expect_rejected("rope_scaling", changed(yarn, {{"rope_theta", 1}}), {"rope_theta", "is 1", "yarn"});
  expect_rejected("rope_scaling", changed(yarn, {{"partial_rotary_factor", 0.5}}), {"partial_rotary_factor", "0.5"});
  expect_rejected("rope_parameters", {{"rope_type", "default"}, {"rope_theta", "big"}},
                  {"rope_parameters.rope_theta", "big", "number"});
}

TEST_F(ConfigTest, MissingFields) {
  for (const char* name : {"architectures", "num_hidden_layers", "hidden_size", "num_attention_heads",
                           "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    expect_rejected(name, nullptr, {name, "missing"});
  }
}

TEST_F(ConfigTest, WrongTypesAndValues) {
  for (const char* name : {"num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                           "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    expect_rejected(name, 0, {name, "is 0", "integer from 1"});
    expect_rejected(name, -4, {name, "is -4", "integer from 1"});
    expect_rejected(name, 2.5, {name, "is 2.5", "integer from 1"});
    expect_rejected(name, "8", {name, "is \"8\"", "integer from 1"});
  }
  expect_rejected("num_hidden_layers", 3'000'000'000, {"num_hidden_layers", "3000000000", "2147483647"});
  expect_rejected("rms_norm_eps", "small", {"rms_norm_eps", "small", "number above 0"});
  expect_rejected("rms_norm_eps", 0, {"rms_norm_eps", "is 0", "number above 0"});
  expect_rejected("rope_theta", -1.5, {"rope_theta", "is -1.5", "number above 0"});
  expect_rejected("tie_word_embeddings", 1, {"tie_word_embeddings", "is 1", "true or false"});
  expect_rejected("attention_bias", "no", {"attention_bias", "\"no\"", "true or false"});
}

TEST_F(ConfigTest, InconsistentHeads) {
  expect_rejected("num_key_value_heads", 4, {"num_attention_heads is 6", "num_key_value_heads 4"});
  expect_rejected("head_dim", 15, {"head_dim is 15", "even"});
  expect_rejected("hidden_size", 61, {"hidden_size is 61", "num_attention_heads 6", "head_dim is missing"});
  expect_rejected("head_dim", 1'000'000'000, {"num_attention_heads 6", "head_dim 1000000000"});
}

TEST_F(ConfigTest, WrongEndTokens) {
  expect_rejected("eos_token_id", 101, {"eos_token_id", "is 101", "vocab_size 101"});
  expect_rejected("eos_token_id", -1, {"eos_token_id", "is -1"});
  expect_rejected("eos_token_id", "</s>", {"eos_token_id", "</s>"});
  expect_rejected("eos_token_id", {5, 1.5}, {"eos_token_id", "[5,1.5]"});
  expect_error(
      [&] {
        load_with_generation(small_config(), {{"eos_token_id", {1, 500}}});
      },
      {"/generation_config.json", "eos_token_id", "[1,500]"});
}

}  // namespace
}  // namespace apb
