#include "model/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "expect_error.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

using nlohmann::json;

std::string file_of_header(const std::string& header, const std::string& data) {
  std::string length(8, '\0');
  const std::uint64_t bytes = header.size();
  std::memcpy(length.data(), &bytes, length.size());
  return length + header + data;
}

// As writers do it: the header filled up with spaces to a multiple of 8.
std::string file_of(const json& header, const std::string& data) {
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return file_of_header(text, data);
}

json entry(const std::string& type, const std::vector<std::int64_t>& shape, std::int64_t begin, std::int64_t end) {
  return {{"dtype", type}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

template <typename Number>
std::string bytes_of(const std::vector<Number>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Number)};
}

std::string bytes_of(const ConstView& view) {
  return {reinterpret_cast<const char*>(view.data),
          static_cast<std::size_t>(view.rows * view.columns) * size_of(view.type)};
}

class SafetensorsTest : public testing::Test {
 protected:
  void expect_rejected(const std::string& contents, std::vector<std::string> parts) const {
    const auto file = folder_.write("bad.safetensors", contents);
    parts.push_back(file.string());
    expect_error([&] { Checkpoint::open_file(file); }, parts);
  }

  void expect_rejected(const json& tensor, const std::string& data, std::vector<std::string> parts) const {
    SCOPED_TRACE(tensor.dump());
    parts.emplace_back("\"liar\"");
    expect_rejected(file_of({{"liar", tensor}}, data), std::move(parts));
  }

  // Two shards, "a" [2, 3] and "b" [1]; the index in `weight_map`.
  void write_shards(const json& weight_map) const {
    folder_.write("one.safetensors", file_of({{"a", entry("F32", {2, 3}, 0, 24)}}, std::string(24, 'a')));
    folder_.write("two.safetensors", file_of({{"b", entry("BF16", {1}, 0, 2)}}, "bB"));
    folder_.write("model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
  }

  TemporaryFolder folder_;
};

TEST_F(SafetensorsTest, ReadsEveryTypeBitByBit) {
  const std::vector<std::uint16_t> halves = {0x3C00, 0xBC01, 0x7BFF, 0x0001, 0x8000, 0x7A00, 0x5555, 0xAAAA,
                                             0x1234, 0x4321, 0x0F0F, 0xF0F0, 0x00FF, 0xFB00, 0x0180};
  const std::vector<std::uint16_t> brains = {0x3F80, 0xBF81, 0x7F7F, 0x0001, 0x8000, 0x7F40, 0x4049};
  const std::vector<std::uint32_t> floats = {0x3F800000, 0x80000000, 0x7F7FFFFF, 0x00000001,
                                             0x7F400000, 0x40490FDB, 0xDEADBEEF, 0x01234567};
  const json header = {{"__metadata__", {{"format", "pt"}}},
                       {"wide", entry("F32", {2, 4}, 0, 32)},
                       {"half", entry("F16", {5, 3}, 32, 62)},
                       {"brain", entry("BF16", {7}, 62, 76)},
                       {"empty", entry("BF16", {0, 3}, 76, 76)}};
  const auto file =
      folder_.write("odd.safetensors", file_of(header, bytes_of(floats) + bytes_of(halves) + bytes_of(brains)));
  const Checkpoint checkpoint = Checkpoint::open_file(file);

  const ConstView wide = checkpoint.tensor("wide", 2, 4).view;
  EXPECT_EQ(wide.type, DataType::f32);
  EXPECT_EQ(wide.space, Space::host);
  EXPECT_EQ(wide.rows, 2);
  EXPECT_EQ(wide.columns, 4);
  EXPECT_EQ(wide.stride, 4);
  EXPECT_EQ(bytes_of(wide), bytes_of(floats));
  EXPECT_EQ(checkpoint.tensor("half", 5, 3).view.type, DataType::f16);
  EXPECT_EQ(bytes_of(checkpoint.tensor("half", 5, 3).view), bytes_of(halves));
  EXPECT_EQ(checkpoint.tensor("brain", 1, 7).view.type, DataType::bf16);
  EXPECT_EQ(bytes_of(checkpoint.tensor("brain", 1, 7).view), bytes_of(brains));
  EXPECT_TRUE(checkpoint.tensor("empty", 0, 3).view.empty());
  EXPECT_EQ(checkpoint.rows("half"), 5);
  EXPECT_TRUE(checkpoint.contains("half"));
  EXPECT_FALSE(checkpoint.contains("halves"));
  EXPECT_FALSE(checkpoint.contains("__metadata__"));
}

TEST_F(SafetensorsTest, ReadsAModelFolderWholeOrInShards) {
  const TinyModel model = random_tiny_model(11);
  for (const bool shards : {false, true}) {
    const auto folder = folder_.path() / (shards ? "shards" : "whole");
    write_model_folder(model, folder, shards);
    Checkpoint opened = Checkpoint::open(folder);
    const Checkpoint checkpoint = std::move(opened);  // views follow the checkpoint
    for (const auto& [name, shape] : tensor_shapes(model)) {
      const auto rows = shape.size() == 2 ? static_cast<std::int64_t>(shape[0]) : 1;
      const auto view = checkpoint.tensor(name, rows, static_cast<std::int64_t>(shape.back())).view;
      EXPECT_EQ(bytes_of(view), bytes_of(model.tensor(name))) << name;
    }
  }
}

TEST_F(SafetensorsTest, MissingTensorsAndWrongShapes) {
  const json header = {{"matrix", entry("F32", {2, 3}, 0, 24)}, {"scalar", entry("F32", {}, 24, 28)}};
  const auto file = folder_.write("some.safetensors", file_of(header, std::string(28, '\0')));
  const Checkpoint checkpoint = Checkpoint::open_file(file);
  expect_error([&] { checkpoint.tensor("lm_head.weight", 2, 3); }, {file.string(), "\"lm_head.weight\"", "missing"});
  expect_error([&] { checkpoint.rows("nothing"); }, {file.string(), "\"nothing\"", "missing"});
  expect_error([&] { checkpoint.rows("scalar"); }, {file.string(), "\"scalar\"", "shape []"});
  expect_error([&] { checkpoint.tensor("matrix", 3, 2); }, {file.string(), "\"matrix\"", "[2,3]", "[3, 2]"});
  expect_error([&] { checkpoint.tensor("matrix", 1, 6); }, {file.string(), "\"matrix\"", "[2,3]", "[1, 6]"});
  expect_error([&] { checkpoint.tensor("scalar", 1, 1); }, {file.string(), "\"scalar\"", "[]", "[1, 1]"});
}

TEST_F(SafetensorsTest, OtherTypesAreAnErrorOnlyWhenAskedFor) {
  const json header = {{"ids", entry("I64", {1}, 0, 8)}, {"weight", entry("F32", {1}, 8, 12)}};
  const auto file = folder_.write("types.safetensors", file_of(header, std::string(12, '\0')));
  const Checkpoint checkpoint = Checkpoint::open_file(file);
  EXPECT_EQ(checkpoint.tensor("weight", 1, 1).view.rows, 1);
  expect_error([&] { checkpoint.tensor("ids", 1, 1); }, {file.string(), "\"ids\"", "I64", "BF16, F16, F32"});
}

TEST_F(SafetensorsTest, DataThatIsNotAligned) {
  std::string header = json{{"wide", entry("F32", {1}, 0, 4)}, {"brain", entry("BF16", {1}, 4, 6)}}.dump();
  header.resize((header.size() + 7) / 8 * 8 + 2, ' ');
  const auto even = folder_.write("even.safetensors", file_of_header(header, "1234ab"));
  const Checkpoint checkpoint = Checkpoint::open_file(even);
  EXPECT_EQ(bytes_of(checkpoint.tensor("brain", 1, 1).view), "ab");
  expect_error([&] { checkpoint.tensor("wide", 1, 1); }, {even.string(), "\"wide\"", "aligned", "F32"});

  const auto odd = folder_.write("odd.safetensors", file_of_header(header + " ", "1234ab"));
  expect_error([&] { Checkpoint::open_file(odd).tensor("brain", 1, 1); }, {odd.string(), "\"brain\"", "aligned"});
}

TEST_F(SafetensorsTest, FilesThatAreNotSafetensors) {
  expect_rejected("", {"truncated", "0 bytes"});
  expect_rejected("seven b", {"truncated", "7 bytes"});
  expect_rejected("version https://git-lfs.github.com/spec/v1", {"not a safetensors file", "42 bytes"});
  expect_rejected(file_of_header("{broken", ""), {"not valid JSON"});
  expect_rejected(file_of_header("[1, 2]  ", ""), {"no JSON object"});
  expect_error([&] { Checkpoint::open_file(folder_.path() / "none.safetensors"); },
               {"none.safetensors", "cannot be opened", "No such file"});
  expect_error([&] { Checkpoint::open_file(folder_.path()); }, {folder_.path().string(), "not a regular file"});
}

TEST_F(SafetensorsTest, TruncatedFiles) {
  const std::string whole = file_of({{"liar", entry("F32", {2, 3}, 0, 24)}}, std::string(24, 'x'));
  expect_rejected(whole.substr(0, whole.size() - 1), {"truncated", "\"liar\"", "24", "23"});
  expect_rejected(whole.substr(0, 30), {"truncated", "30 bytes"});
  expect_rejected(whole + "y", {"1 bytes follow the last tensor"});
}

TEST_F(SafetensorsTest, HeadersThatLie) {
  const std::string data(24, 'x');
  expect_rejected(entry("F32", {2, 4}, 0, 24), data, {"[0, 24]", "F32 [2,4]"});
  expect_rejected(entry("BF16", {2, 3}, 0, 24), data, {"[0, 24]", "BF16 [2,3]"});
  expect_rejected(entry("F32", {1LL << 31, 1LL << 31, 1LL << 31}, 0, 24), data, {"F32 [2147483648"});
  expect_rejected(entry("F32", {1LL << 62, 4}, 0, 0), data, {"[0, 0]", "F32"});  // 0 modulo 2^64
  expect_rejected(entry("F32", {2, 3}, 24, 0), data, {"data_offsets", "[24,0]"});
  expect_rejected(entry("F32", {2, 3}, -24, 0), data, {"data_offsets", "[-24,0]"});
  expect_rejected(entry("F32", {-2, -3}, 0, 24), data, {"shape", "[-2,-3]"});
  expect_rejected(entry("F32", {3}, 12, 24), data, {"[12, 24]", "before it ends at 0"});
  expect_rejected({{"dtype", 32}, {"shape", {1}}, {"data_offsets", {0, 4}}}, data, {"dtype", "32"});
  expect_rejected({{"dtype", "F32"}, {"shape", {1.5}}, {"data_offsets", {0, 4}}}, data, {"shape", "[1.5]"});
  expect_rejected({{"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {0}}}, data, {"data_offsets", "[0]"});
  expect_rejected({{"dtype", "F32"}, {"shape", {1}}}, data, {"data_offsets"});
  expect_rejected(json("F32"), data, {"dtype"});
  // Two tensors over the same bytes.
  expect_rejected(file_of({{"a", entry("F32", {4}, 0, 16)}, {"b", entry("F32", {4}, 8, 24)}}, data),
                  {"\"b\"", "[8, 24]", "ends at 16"});
}

TEST_F(SafetensorsTest, FoldersWithoutWeights) {
  expect_error([&] { Checkpoint::open(folder_.path()); },
               {folder_.path().string(), "model.safetensors", "model.safetensors.index.json"});
}

TEST_F(SafetensorsTest, IndexOfShards) {
  write_shards({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  const Checkpoint checkpoint = Checkpoint::open(folder_.path());
  EXPECT_EQ(bytes_of(checkpoint.tensor("a", 2, 3).view), std::string(24, 'a'));
  EXPECT_EQ(bytes_of(checkpoint.tensor("b", 1, 1).view), "bB");
  expect_error([&] { checkpoint.tensor("c", 1, 1); }, {folder_.path().string(), "\"c\"", "missing"});
}

TEST_F(SafetensorsTest, IndexThatCannotBeUsed) {
  const auto open = [&] { Checkpoint::open(folder_.path()); };
  write_shards({{"a", "one.safetensors"}, {"b", "three.safetensors"}});
  expect_error(open, {"three.safetensors", "missing", "index.json", "\"b\""});
  write_shards({{"a", "one.safetensors"}, {"b", "one.safetensors"}});
  expect_error(open, {"one.safetensors", "no tensor \"b\"", "index.json"});
  write_shards({{"a", 1}});
  expect_error(open, {"index.json", "weight_map.a", "is 1"});
  write_shards(json::array());
  expect_error(open, {"index.json", "weight_map"});
  write_shards(json::object());
  expect_error(open, {"index.json", "weight_map", "empty"});
  folder_.write("model.safetensors.index.json", "{");
  expect_error(open, {"index.json", "not valid JSON"});
}

}  // namespace
}  // namespace apb
