#include "model/byte_level.hpp"

#include <utf8proc.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "error.hpp"

namespace apb {

namespace {

constexpr std::size_t spelling_count = 256 + 68;  // 68 bytes are spelled by U+0100 and up

// Code point -> byte, -1 where there is none. Printable Latin-1 spells itself, the others are numbered from U+0100.
std::array<int, spelling_count> make_byte_table() {
  std::array<int, spelling_count> table{};
  table.fill(-1);
  std::size_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    table.at(printable ? static_cast<std::size_t>(byte) : next++) = byte;
  }
  return table;
}

struct Utf8Sequence {
  std::size_t length;  // of the character, or of the longest ill-formed start of one
  bool valid;
};

Utf8Sequence utf8_sequence_at(std::string_view bytes, std::size_t offset) {
  const auto byte = [&](std::size_t i) { return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0U; };
  const unsigned first = byte(offset);
  if (first < 0x80) return {1, true};
  if (first < 0xC2 || first > 0xF4) return {1, false};
  std::size_t length = 2;
  if (first >= 0xE0) length = 3;
  if (first >= 0xF0) length = 4;
  // The second byte has a smaller range where it could spell too short, surrogate or too large code points.
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < length; ++i) {
    const unsigned next = byte(offset + i);
    if (next < low || next > high) return {i, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

bool is_ascii(std::string_view text) {
  unsigned all = 0;
  for (const char c : text) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

}  // namespace

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  static const auto table = make_byte_table();
  std::string bytes;
  for (std::size_t i = 0; i < spelling.size();) {
    const unsigned first = static_cast<unsigned char>(spelling[i]);
    std::size_t code_point = first;
    if (first >= 0x80) {  // the table ends before U+0800: one or two bytes
      if (first >= 0xE0 || i + 1 >= spelling.size()) return std::nullopt;
      code_point = (first & 0x1FU) << 6U | (static_cast<unsigned char>(spelling[i + 1]) & 0x3FU);
    }
    if (code_point >= spelling_count || table.at(code_point) < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(table.at(code_point)));
    i += first < 0x80 ? 1 : 2;
  }
  return bytes;
}

std::size_t find_invalid_utf8(std::string_view text) {
  std::size_t offset = 0;
  while (offset < text.size()) {
    const auto sequence = utf8_sequence_at(text, offset);
    if (!sequence.valid) return offset;
    offset += sequence.length;
  }
  return text.size();
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t offset = 0; offset < bytes.size();) {
    const auto sequence = utf8_sequence_at(bytes, offset);
    text += sequence.valid ? bytes.substr(offset, sequence.length) : "\uFFFD";
    offset += sequence.length;
  }
  return text;
}

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string result;
  std::size_t done = 0;
  for (auto at = text.find(pattern); at != std::string_view::npos; at = text.find(pattern, done)) {
    result.append(text.substr(done, at - done)).append(content);
    done = at + pattern.size();
  }
  return result.append(text.substr(done));
}

std::string normalize_nfc(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  std::uint8_t* result = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const std::uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &result, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<std::uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (length < 0) fail("text cannot be normalised to NFC: {}", utf8proc_errmsg(length));
  return {reinterpret_cast<const char*>(result), static_cast<std::size_t>(length)};
}

}  // namespace apb
