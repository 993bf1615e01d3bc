#include "tiny_model.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "error.hpp"

namespace apb {
namespace {

using nlohmann::json;

class ModelFolder : public testing::Test {
 protected:
  ModelFolder() : folder_(std::filesystem::temp_directory_path() / ("apb_tiny_" + std::to_string(getpid()))) {}
  ~ModelFolder() override { std::filesystem::remove_all(folder_); }

  std::string read(const std::string& file) const {
    std::ifstream stream(folder_ / file, std::ios::binary);
    EXPECT_TRUE(stream.good()) << file;
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  // Compares every tensor in the file with the model's; returns their names.
  std::set<std::string> check_tensors(const std::string& file, const TinyModel& model) const {
    const std::string bytes = read(file);
    std::uint64_t header_length = 0;
    std::memcpy(&header_length, bytes.data(), sizeof(header_length));
    EXPECT_EQ(header_length % 8, 0U);
    const json header = json::parse(bytes.substr(8, header_length));
    const char* data = bytes.data() + 8 + header_length;
    std::set<std::string> names;
    std::size_t total = 0;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      names.insert(name);
      const auto& values = model.tensor(name);
      const std::size_t begin = entry["data_offsets"][0];
      const std::size_t end = entry["data_offsets"][1];
      std::size_t count = 1;
      for (const std::size_t extent : entry["shape"]) count *= extent;
      EXPECT_EQ(count, values.size()) << name;
      EXPECT_EQ(entry["dtype"], "F32") << name;
      EXPECT_EQ(end - begin, values.size() * sizeof(float)) << name;
      EXPECT_EQ(std::memcmp(data + begin, values.data(), end - begin), 0) << name;
      total += end - begin;
    }
    EXPECT_EQ(bytes.size(), 8 + header_length + total);
    return names;
  }

  std::filesystem::path folder_;
};

std::set<std::string> names_of(const TensorShapes& shapes) {
  std::set<std::string> names;
  for (const auto& [name, shape] : shapes) names.insert(name);
  return names;
}

TEST_F(ModelFolder, HoldsEveryTensorInOneFile) {
  const TinyModel model = random_tiny_model(1);
  write_model_folder(model, folder_);
  EXPECT_EQ(check_tensors("model.safetensors", model), names_of(tensor_shapes(model)));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "model.safetensors.index.json"));
}

TEST_F(ModelFolder, ShardsHoldWhatTheIndexSays) {
  const TinyModel model = random_tiny_model(2, {.layers = 2, .tied = true, .qkv_bias = true});
  write_model_folder(model, folder_, true);
  const json index = json::parse(read("model.safetensors.index.json"));
  std::set<std::string> names;
  for (const std::string part : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    for (const auto& name : check_tensors(part, model)) {
      EXPECT_EQ(index["weight_map"][name], part) << name;
      EXPECT_TRUE(names.insert(name).second) << name << " is in both files";
    }
  }
  EXPECT_EQ(names, names_of(tensor_shapes(model)));
  EXPECT_EQ(names.count("lm_head.weight"), 0U);
  EXPECT_EQ(names.count("model.layers.1.self_attn.k_proj.bias"), 1U);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "model.safetensors"));
}

TEST_F(ModelFolder, RetainingHeadsAreAFileOfTheirOwn) {
  const TinyModel model = random_tiny_model(3, {.layers = 2});
  std::filesystem::create_directories(folder_);
  write_retaining_heads(model, folder_ / "heads.safetensors");
  const std::set<std::string> expected = {"model.layers.0.self_attn.fc1.weight", "model.layers.0.self_attn.fc2.weight",
                                          "model.layers.1.self_attn.fc1.weight", "model.layers.1.self_attn.fc2.weight"};
  EXPECT_EQ(check_tensors("heads.safetensors", model), expected);
}

TEST_F(ModelFolder, ConfigSaysWhatTheModelIs) {
  const TinyModel model = random_tiny_model(4, {.heads = 4, .kv_heads = 1, .rope_theta = 5e5});
  write_model_folder(model, folder_);
  const json config = json::parse(read("config.json"));
  EXPECT_EQ(config["architectures"], json({"LlamaForCausalLM"}));
  EXPECT_EQ(config["num_attention_heads"], 4);
  EXPECT_EQ(config["num_key_value_heads"], 1);
  EXPECT_EQ(config["rope_theta"], 5e5);
  EXPECT_EQ(config["torch_dtype"], "float32");
  EXPECT_EQ(config["eos_token_id"], tiny_im_end);
  EXPECT_EQ(json::parse(read("generation_config.json"))["eos_token_id"], tiny_im_end);
}

TEST_F(ModelFolder, FamiliesHaveTheirOwnConfigsAndTensors) {
  const auto config_of = [&](const std::string& name) {
    const TinyModel model = random_tiny_model(4, tiny_families().at(name));
    std::filesystem::remove_all(folder_);
    write_model_folder(model, folder_);
    EXPECT_EQ(check_tensors("model.safetensors", model), names_of(tensor_shapes(model)));
    return json::parse(read("config.json"));
  };
  const json biased = config_of("llama_attention_bias");
  EXPECT_EQ(biased["architectures"], json({"LlamaForCausalLM"}));
  EXPECT_EQ(biased["attention_bias"], true);
  const json llama3 = config_of("llama_llama3");
  EXPECT_EQ(llama3["rope_parameters"]["rope_type"], "llama3");
  EXPECT_EQ(llama3["rope_parameters"]["rope_theta"], 500000.0);
  EXPECT_FALSE(llama3.contains("rope_theta") || llama3.contains("rope_scaling"));
  const json qwen2 = config_of("qwen2_tied_yarn");
  EXPECT_EQ(qwen2["architectures"], json({"Qwen2ForCausalLM"}));
  EXPECT_EQ(qwen2["rope_scaling"]["rope_type"], "yarn");
  EXPECT_EQ(qwen2["rope_scaling"]["beta_fast"], 8.0);
  EXPECT_EQ(qwen2["tie_word_embeddings"], true);
  const json qwen3 = config_of("qwen3");
  EXPECT_EQ(qwen3["architectures"], json({"Qwen3ForCausalLM"}));
  EXPECT_EQ(qwen3["attention_bias"], false);
}

TEST_F(ModelFolder, TokenizerMapsEveryByteToItself) {
  write_model_folder(random_tiny_model(5), folder_);
  const json tokenizer = json::parse(read("tokenizer.json"));
  const json& vocabulary = tokenizer["model"]["vocab"];
  EXPECT_EQ(vocabulary.size(), 256U);
  EXPECT_EQ(vocabulary["A"], 'A');
  EXPECT_EQ(vocabulary["\u0120"], ' ');
  EXPECT_EQ(vocabulary["\u010A"], '\n');
  EXPECT_EQ(vocabulary["\u00E9"], 0xE9);
  EXPECT_EQ(vocabulary["\u0143"], 0xAD);
  EXPECT_EQ(tokenizer["added_tokens"][1]["content"], "<|im_end|>");
  EXPECT_EQ(tokenizer["added_tokens"][1]["id"], tiny_im_end);
}

TEST_F(ModelFolder, RefusesAVocabularyBelowTheTokenizers) {
  EXPECT_THROW(write_model_folder(random_tiny_model(6, {.vocabulary = 258}), folder_), Error);
}

TEST(TinyModel, IsTheSameForTheSameSeedOnly) {
  EXPECT_EQ(random_tiny_model(7).tensors, random_tiny_model(7).tensors);
  EXPECT_NE(random_tiny_model(7).tensors, random_tiny_model(8).tensors);
}

}  // namespace
}  // namespace apb
