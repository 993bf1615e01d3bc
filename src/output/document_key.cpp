#include "output/document_key.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <memory>
#include <vector>

#include "error.hpp"

namespace apb {

namespace {

class Hash {
 public:
  Hash() : state_(XXH3_createState(), XXH3_freeState) {
    if (!state_ || XXH3_128bits_reset(state_.get()) != XXH_OK) fail("out of memory for a hash");
  }

  void add(std::string_view bytes) { XXH3_128bits_update(state_.get(), bytes.data(), bytes.size()); }

  /// Eight bytes, lowest first on every machine.
  void add_number(std::uint64_t value) {
    std::array<char, 8> bytes{};
    for (char& byte : bytes) {
      byte = static_cast<char>(value & 0xFFU);
      value >>= 8U;
    }
    add({bytes.data(), bytes.size()});
  }

  std::string hex() const {
    XXH128_canonical_t bytes{};
    XXH128_canonicalFromHash(&bytes, XXH3_128bits_digest(state_.get()));
    std::string text;
    for (const auto byte : bytes.digest) text += fmt::format("{:02x}", byte);
    return text;
  }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

void add_file(Hash& hash, const std::filesystem::path& path) {
  constexpr std::uint64_t start = std::uint64_t{1} << 20;
  constexpr std::uint64_t piece = std::uint64_t{64} << 10;
  constexpr std::uint64_t pieces = 64;
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const std::uint64_t size = std::filesystem::file_size(path, error);
  if (error || !file) fail("{}: cannot be read", path.string());
  std::vector<char> buffer;
  const auto add_range = [&](std::uint64_t offset, std::uint64_t length) {
    buffer.resize(std::min(length, size - offset));
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    if (!file) fail("{}: cannot be read at byte {}", path.string(), offset);
    hash.add({buffer.data(), buffer.size()});
  };
  hash.add_number(size);
  add_range(0, start);
  if (size <= start) return;
  const std::uint64_t last = size - piece;
  for (std::uint64_t i = 0; i < pieces; ++i) add_range(last * i / (pieces - 1), piece);
}

}  // namespace

std::string document_key(std::span<const std::string_view> pieces) {
  Hash hash;
  for (const auto piece : pieces) {
    hash.add_number(piece.size());
    hash.add(piece);
  }
  return hash.hex();
}

std::string fingerprint_files(std::span<const std::filesystem::path> files) {
  Hash hash;
  for (const auto& file : files) add_file(hash, file);
  return hash.hex();
}

}  // namespace apb
