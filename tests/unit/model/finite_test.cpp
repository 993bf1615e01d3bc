#include "model/finite.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "expect_error.hpp"
#include "model/safetensors.hpp"
#include "temporary_folder.hpp"

namespace apb {
namespace {

struct Pattern {
  DataType type;
  std::uint32_t bits;
};

constexpr std::array bad_patterns = {
    Pattern{DataType::f32, 0x7FC00000}, Pattern{DataType::f32, 0xFF800001}, Pattern{DataType::f32, 0x7F800000},
    Pattern{DataType::f32, 0xFF800000}, Pattern{DataType::bf16, 0x7FC0},    Pattern{DataType::bf16, 0xFF81},
    Pattern{DataType::bf16, 0x7F80},    Pattern{DataType::bf16, 0xFF80},    Pattern{DataType::f16, 0x7E00},
    Pattern{DataType::f16, 0xFC01},     Pattern{DataType::f16, 0x7C00},     Pattern{DataType::f16, 0xFC00},
};

// The largest numbers, both zeros, the smallest and the largest subnormal number.
std::vector<std::uint32_t> good_bits(DataType type) {
  if (type == DataType::f32) return {0x7F7FFFFF, 0xFF7FFFFF, 0, 0x80000000, 1, 0x807FFFFF};
  if (type == DataType::bf16) return {0x7F7F, 0xFF7F, 0, 0x8000, 1, 0x807F};
  return {0x7BFF, 0xFBFF, 0, 0x8000, 1, 0x83FF};
}

std::vector<std::byte> good_values(DataType type, std::size_t count) {
  const auto bits = good_bits(type);
  std::vector<std::byte> bytes(count * size_of(type));
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(bytes.data() + i * size_of(type), &bits[i % bits.size()], size_of(type));
  }
  return bytes;
}

TEST(Finite, FindsEveryKindOfBadValueAnywhere) {
  constexpr std::int64_t rows = 7;
  constexpr std::int64_t columns = 29;
  for (const auto& [type, bits] : bad_patterns) {
    const auto good = good_values(type, rows * columns);
    EXPECT_FALSE(first_not_finite({good.data(), type, Space::host, rows, columns, columns}));
    for (std::int64_t index = 0; index < rows * columns; ++index) {
      auto bad = good;
      std::memcpy(bad.data() + static_cast<std::size_t>(index) * size_of(type), &bits, size_of(type));
      EXPECT_EQ(first_not_finite({bad.data(), type, Space::host, rows, columns, columns}), index) << std::hex << bits;
    }
  }
}

TEST(Finite, OfNothingIsNothing) { EXPECT_FALSE(first_not_finite({})); }

TEST(Finite, ACheckpointNamesTheTensor) {
  const TemporaryFolder folder;
  std::vector<std::byte> data = good_values(DataType::bf16, 12);
  const std::uint16_t infinity = 0x7F80;
  std::memcpy(data.data() + std::size_t{2} * 9, &infinity, sizeof infinity);
  std::string header = nlohmann::json{{"good", {{"dtype", "BF16"}, {"shape", {2}}, {"data_offsets", {0, 4}}}},
                                      {"bad", {{"dtype", "BF16"}, {"shape", {2, 5}}, {"data_offsets", {4, 24}}}}}
                           .dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file += header;
  file.append(reinterpret_cast<const char*>(data.data()), data.size());
  folder.write("model.safetensors", file);
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.tensor("good", 1, 2).view.columns, 2);
  expect_error([&] { checkpoint.tensor("bad", 2, 5); }, {"model.safetensors", "\"bad\"", "NaN or infinity", "[1, 2]"});
}

}  // namespace
}  // namespace apb
