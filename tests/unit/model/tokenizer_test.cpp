// The reference is the `tokenizers` package: tests/make_tokenizer_reference.py wrote what it makes of the same texts.
#include "model/tokenizer.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "error.hpp"
#include "expect_error.hpp"
#include "temporary_folder.hpp"

namespace apb {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

std::filesystem::path data_file(const std::string& name) {
  return std::filesystem::path(APB_TEST_DATA) / ("tokenizer_" + name + ".json");
}

json read_json(const std::string& name) {
  std::ifstream stream(data_file(name));
  return json::parse(stream);
}

/// 64-bit FNV-1a over the ids' four little-endian bytes.
std::uint64_t hash_of(const Ids& ids) {
  std::uint64_t value = 0xCBF29CE484222325U;
  for (const auto id : ids) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<std::uint32_t>(id) >> shift) & 0xFFU)) * 0x100000001B3U;
    }
  }
  return value;
}

class TokenizerReference : public testing::TestWithParam<const char*> {
 protected:
  static const json& cases() {
    static const json file = read_json("cases");
    return file;
  }
  const json& texts() const { return cases()["texts"]; }
  const json& expected() const { return cases()["families"][GetParam()]; }
  const Tokenizer tokenizer_ = Tokenizer::load(data_file(GetParam()));
};

TEST_P(TokenizerReference, encodes_every_text) {
  ASSERT_GT(texts().size(), 500U);
  for (std::size_t i = 0; i < texts().size(); ++i) {
    const auto text = texts()[i].get<std::string>();
    EXPECT_EQ(tokenizer_.encode(text), expected()["ids"][i].get<Ids>()) << "text " << i << ": " << text;
  }
}

TEST_P(TokenizerReference, leaves_special_tokens_in_users_text_alone) {
  for (std::size_t i = 0; i < texts().size(); ++i) {
    const auto text = texts()[i].get<std::string>();
    const auto same_as_encode = !expected()["ordinary"].contains(std::to_string(i));
    const auto& ids = same_as_encode ? expected()["ids"][i] : expected()["ordinary"][std::to_string(i)];
    EXPECT_EQ(tokenizer_.encode_ordinary(text), ids.get<Ids>()) << "text " << i << ": " << text;
  }
}

TEST_P(TokenizerReference, decodes_every_text) {
  for (std::size_t i = 0; i < texts().size(); ++i) {
    const auto same_as_text = !expected()["decoded"].contains(std::to_string(i));
    const auto& text = same_as_text ? texts()[i] : expected()["decoded"][std::to_string(i)];
    EXPECT_EQ(tokenizer_.decode(expected()["ids"][i].get<Ids>()), text.get<std::string>()) << "text " << i;
  }
}

TEST_P(TokenizerReference, decodes_ids_that_are_no_text) {
  for (const auto& entry : expected()["random_decoded"]) {
    EXPECT_EQ(tokenizer_.decode(entry[0].get<Ids>()), entry[1].get<std::string>()) << entry[0].dump();
  }
}

TEST_P(TokenizerReference, encodes_long_stretches) {
  for (const auto& entry : expected()["long"]) {
    std::string text;
    for (int i = 0; i < entry["count"].get<int>(); ++i) text += entry["unit"].get<std::string>();
    const auto ids = tokenizer_.encode(text);
    EXPECT_EQ(ids.size(), entry["length"].get<std::size_t>()) << entry.dump();
    EXPECT_EQ(hash_of(ids), entry["hash"].get<std::uint64_t>()) << entry.dump();
    EXPECT_EQ(tokenizer_.encode(text), ids);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerReference,
                         testing::Values("gpt2", "llama3", "qwen2", "prefix", "llama2", "yi"),
                         [](const auto& family) { return std::string(family.param); });

// Each file is one of the families with some fields changed.
TEST(TokenizerVariants, encode_and_decode_as_the_reference) {
  const auto variants = read_json("cases")["variants"];
  ASSERT_GT(variants["files"].size(), 10U);
  for (const auto& variant : variants["files"]) {
    auto file = read_json(variant["family"].get<std::string>());
    for (const auto& [pointer, value] : variant["change"].items()) file[json::json_pointer(pointer)] = value;
    const TemporaryFolder folder;
    const auto tokenizer = Tokenizer::load(folder.write("tokenizer.json", file.dump()));
    for (std::size_t i = 0; i < variants["texts"].size(); ++i) {
      const auto text = variants["texts"][i].get<std::string>();
      const auto ids = variant["ids"][i].get<Ids>();
      EXPECT_EQ(tokenizer.encode(text), ids) << variant["change"] << "\n'" << text << "'";
      EXPECT_EQ(tokenizer.decode(ids), variant["decoded"][i].get<std::string>()) << variant["change"] << "\n" << text;
    }
  }
}

TEST(Tokenizer, knows_its_tokens) {
  const auto tokenizer = Tokenizer::load(data_file("llama3"));
  const auto file = read_json("llama3");
  EXPECT_EQ(tokenizer.token_id("<|eot_id|>"), file["model"]["vocab"]["<|eot_id|>"].get<std::int32_t>());
  EXPECT_EQ(tokenizer.token_id("Ġ"), file["model"]["vocab"]["Ġ"].get<std::int32_t>());
  EXPECT_EQ(tokenizer.token_id("<tool>>"), 2501);
  EXPECT_EQ(tokenizer.token_id("Ame\u0301lie"), 2502);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.vocabulary_size(), 2504);
  EXPECT_EQ(tokenizer.beginning_of_sequence(), tokenizer.token_id("<|begin_of_text|>"));
  EXPECT_EQ(Tokenizer::load(data_file("gpt2")).beginning_of_sequence(), std::nullopt);
}

TEST(Tokenizer, decodes_ids_outside_the_vocabulary_to_nothing) {
  const auto tokenizer = Tokenizer::load(data_file("gpt2"));
  Ids ids = tokenizer.encode("left");
  ids.insert(ids.end(), {-1, 2504, 1 << 30});
  EXPECT_EQ(tokenizer.decode(ids), "left");
}

TEST(Tokenizer, is_the_same_from_several_threads) {
  const auto tokenizer = Tokenizer::load(data_file("qwen2"));
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "word" + std::to_string(i * 7919) + " café\n";
  const auto expected = tokenizer.encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = tokenizer.encode(text); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(SplitRegex, looks_back_over_any_length) {
  const std::string text = std::string(11'000'000, ' ') + "x";
  std::vector<std::size_t> lengths;
  SplitRegex(R"(\s*[\r\n]+|\s+(?!\S)|\s+)").split(text, [&](std::string_view part) { lengths.push_back(part.size()); });
  EXPECT_EQ(lengths, (std::vector<std::size_t>{10'999'999, 1, 1}));
}

// The error of loading a file with this text; it must start with the file's path.
std::string load_error(const std::string& text) {
  const auto path = std::filesystem::temp_directory_path() / ("apb_tokenizer_" + std::to_string(getpid()) + ".json");
  std::ofstream(path) << text;
  const auto message = error_of([&] { Tokenizer::load(path); });
  std::filesystem::remove(path);
  EXPECT_EQ(message.rfind(path.string() + ": ", 0), 0U) << message;
  return message;
}

TEST(TokenizerErrors, name_the_field_and_its_value) {
  const auto good = read_json("qwen2");
  const auto expect = [&](const char* pointer, const json& value, const std::string& message) {
    auto file = good;
    file[json::json_pointer(pointer)] = value;
    const auto error = load_error(file.dump());
    EXPECT_NE(error.find(message), std::string::npos) << error << "\nlacks: " << message;
  };
  expect("/model/type", "Unigram", "model.type is \"Unigram\", supported: \"BPE\"");
  expect("/model/dropout", 0.1, "model.dropout is 0.1, supported: null, 0.0");
  expect("/model/byte_fallback", "yes", "model.byte_fallback is \"yes\", supported: false, true");
  expect("/model/byte_fallback", true, "model.vocab.<0x00> is missing");
  expect("/model/fuse_unk", true, "model.fuse_unk is true, supported: false");
  expect("/model/vocab/x", "y", "model.vocab['x'] is \"y\", must be an id");
  expect("/model/vocab/x", -5, "token 'x' has the id -5");
  expect("/model/merges/3", "ab", "model.merges[3] is \"ab\", must be");
  expect("/model/merges/3", "a zzzzz", "model.merges[3] needs the token 'zzzzz', which is not in model.vocab");
  expect("/model/unk_token", "<unk>", "model.vocab.<unk> is missing");
  expect("/normalizer", {{"type", "NFKC"}},
         "normalizer.type is 'NFKC', supported: 'Sequence', 'NFC', 'Prepend', 'Replace'");
  expect("/pre_tokenizer", nullptr, "model.byte_fallback is false, which needs a pre_tokenizer with ByteLevel");
  expect("/pre_tokenizer/pretokenizers/0/type", "Metaspace", "pre_tokenizer.pretokenizers[0].type is 'Metaspace'");
  expect("/pre_tokenizer/pretokenizers/0/behavior", "Removed",
         "pre_tokenizer.pretokenizers[0].behavior is \"Removed\", supported: \"Isolated\"");
  expect("/pre_tokenizer/pretokenizers/0/invert", true, "pre_tokenizer.pretokenizers[0].invert is true");
  expect("/pre_tokenizer/pretokenizers/0/pattern/Regex", "a(b", "pattern 'a(b' cannot be compiled");
  expect("/pre_tokenizer/pretokenizers/0/pattern/Regex", "[a&&b]", "pattern '[a&&b]' has '&&' inside");
  expect("/pre_tokenizer/pretokenizers/1", good["pre_tokenizer"]["pretokenizers"][0],
         "pre_tokenizer does not end with ByteLevel");
  expect("/decoder", nullptr, "decoder is null");
  expect("/decoder/type", "Metaspace", "decoder.replacement is missing");
  expect("/decoder/type", "Fuse", "model.byte_fallback is false, which needs a decoder with ByteLevel");
  expect("/decoder/type", "WordPiece", "decoder.type is 'WordPiece', supported: 'Replace'");
  expect("/post_processor", {{"type", "BertProcessing"}}, "post_processor.type is \"BertProcessing\"");
  expect("/added_tokens/1/lstrip", true, "added_tokens[1].lstrip is true, supported: false");
  expect("/added_tokens/1/id", "one", "added_tokens[1].id has the wrong type (string)");
  expect("/added_tokens/1/id", 7, "has two ids: 7 and 1 (model.vocab)");
}

TEST(TokenizerErrors, name_the_field_and_its_value_in_sentencepiece_files) {
  const auto good = read_json("llama2");
  const auto expect = [&](const char* pointer, const json& value, const std::string& message) {
    auto file = good;
    file[json::json_pointer(pointer)] = value;
    const auto error = load_error(file.dump());
    EXPECT_NE(error.find(message), std::string::npos) << error << "\nlacks: " << message;
  };
  const json regex = {{"Regex", " +"}};
  expect("/normalizer/normalizers/1/pattern", regex,
         "normalizer.normalizers[1].pattern is {\"Regex\":\" +\"}, supported");
  expect("/normalizer/normalizers/0/type", "Lowercase", "normalizer.normalizers[0].type is 'Lowercase', supported: ");
  expect("/decoder/decoders/0/pattern", regex,
         "decoder.decoders[0].pattern is {\"Regex\":\" +\"}, supported: a String");
  expect("/decoder/decoders/3/content", "", "decoder.decoders[3].content is empty");
  expect("/decoder/decoders/1/type", "ByteLevel", "decoder.decoders[1].type is 'ByteLevel', supported: ");
  expect("/decoder", {{"type", "ByteLevel"}}, "model.byte_fallback is true, which needs a decoder with no ByteLevel");
  expect("/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer.replacement is missing");
  expect("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}},
         "pre_tokenizer.prepend_scheme is \"last\", supported: \"first\", \"always\", \"never\"");
  expect("/pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}},
         "model.byte_fallback is true, which needs a pre_tokenizer with no ByteLevel");
  expect("/added_tokens/1/rstrip", true, "added_tokens[1].rstrip is true, supported: false");
  expect("/model/merges/0", json{"<0x0A>", "\u2581"}, "model.merges[0] needs the token '<0x0A>\u2581'");
  auto model = good["model"];
  model["vocab"]["<0x0A>\u2581"] = 5000;
  model["merges"][0] = {"<0x0A>", "\u2581"};
  expect("/model", model, "model.merges has '<0x0A> \u2581', a byte before a space, which is not supported");
}

TEST(TokenizerErrors, damaged_or_missing_file) {
  const auto text = read_json("gpt2").dump();
  EXPECT_NE(load_error(text.substr(0, text.size() / 2)).find("not valid JSON: parse error"), std::string::npos);
  EXPECT_NE(load_error("").find("not valid JSON: parse error"), std::string::npos);
  EXPECT_NE(load_error("[]").find("holds a JSON array"), std::string::npos);
  EXPECT_NE(load_error("{}").find("model is not an object"), std::string::npos);
  EXPECT_EQ(error_of([] { Tokenizer::load("/nowhere/tokenizer.json"); }).rfind("/nowhere/tokenizer.json: cannot be", 0),
            0U);
}

TEST(TokenizerErrors, text_that_is_not_utf8) {
  const auto tokenizer = Tokenizer::load(data_file("gpt2"));
  const auto expect = [&](const std::string& text, std::size_t offset) {
    const auto message = error_of([&] { tokenizer.encode(text); });
    EXPECT_NE(message.find("not UTF-8 at byte " + std::to_string(offset) + ";"), std::string::npos) << message;
  };
  expect("\xFF", 0);
  expect("caf\xC3", 3);
  expect("é\xC3(", 2);
  expect("overlong \xC0\xAF", 9);
  expect("overlong \xE0\x80\xAF", 9);
  expect("surrogate \xED\xA0\x80", 10);
  expect("too large \xF4\x90\x80\x80", 10);
  expect("\U0001F600 cut \xF0\x9F\x98", 9);
}

}  // namespace
}  // namespace apb
