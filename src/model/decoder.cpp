#include "model/decoder.hpp"

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/metaspace.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;
using Texts = std::vector<std::string>;

namespace {

std::string joined(const Texts& tokens) {
  std::string text;
  for (const auto& token : tokens) text += token;
  return text;
}

/// The byte that "<0x0A>" spells.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto digits = token.substr(3, 2);
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (result.ec != std::errc{} || result.ptr != digits.data() + digits.size()) return std::nullopt;
  return static_cast<char>(value);
}

/// Byte tokens become the characters that they spell; all bytes of a stretch that is not UTF-8 become U+FFFD.
Texts decode_bytes(const Texts& tokens) {
  Texts result;
  std::string bytes;
  const auto finish_bytes = [&] {
    if (find_invalid_utf8(bytes) < bytes.size()) {
      for (std::size_t i = 0; i < bytes.size(); ++i) result.emplace_back("\uFFFD");
    } else if (!bytes.empty()) {
      result.push_back(bytes);
    }
    bytes.clear();
  };
  for (const auto& token : tokens) {
    if (const auto byte = fallback_byte(token)) {
      bytes.push_back(*byte);
    } else {
      finish_bytes();
      result.push_back(token);
    }
  }
  finish_bytes();
  return result;
}

/// The token without up to `start` and `stop` spellings of `content` at its ends.
std::string strip(std::string_view token, std::string_view content, int start, int stop) {
  for (int i = 0; i < start && token.starts_with(content); ++i) token.remove_prefix(content.size());
  for (int i = 0; i < stop && token.ends_with(content); ++i) token.remove_suffix(content.size());
  return std::string(token);
}

Texts for_each(Texts tokens, const std::function<std::string(const std::string&)>& change) {
  for (auto& token : tokens) token = change(token);
  return tokens;
}

}  // namespace

Decoder::Decoder(const json& description) {
  if (description.is_null()) fail("decoder is null, supported: 'ByteLevel', 'Metaspace', 'Sequence'");
  byte_level_ = json_field<std::string>(description, "decoder", "type") == "ByteLevel";
  if (byte_level_) {
    steps_.emplace_back([](const Texts& tokens) { return Texts{replace_invalid_utf8(joined(tokens))}; });
  } else {
    add_step(description, "decoder");
  }
}

void Decoder::add_step(const json& step, const std::string& where) {
  const auto type = json_field<std::string>(step, where, "type");
  if (type == "Sequence") {
    const auto steps = json_field<json::array_t>(step, where, "decoders");
    for (std::size_t i = 0; i < steps.size(); ++i) add_step(steps[i], fmt::format("{}.decoders[{}]", where, i));
  } else if (type == "Replace") {
    steps_.emplace_back([pattern = json_replaced_string(step, where),
                         content = json_field<std::string>(step, where, "content")](Texts tokens) {
      return for_each(std::move(tokens), [&](const auto& token) { return replace_all(token, pattern, content); });
    });
  } else if (type == "ByteFallback") {
    steps_.emplace_back(decode_bytes);
  } else if (type == "Fuse") {
    steps_.emplace_back([](const Texts& tokens) { return Texts{joined(tokens)}; });
  } else if (type == "Strip") {
    const auto content = json_field<std::string>(step, where, "content");
    if (content.empty()) fail("{}.content is empty", where);
    steps_.emplace_back([content, start = json_field<int>(step, where, "start"),
                         stop = json_field<int>(step, where, "stop")](Texts tokens) {
      return for_each(std::move(tokens), [&](const auto& token) { return strip(token, content, start, stop); });
    });
  } else if (type == "Metaspace") {
    steps_.emplace_back([metaspace = Metaspace(step, where)](Texts tokens) {
      for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = metaspace.decode(tokens[i], i == 0);
      return tokens;
    });
  } else {
    fail("{}.type is '{}', supported: 'Replace', 'ByteFallback', 'Fuse', 'Strip', 'Metaspace', and alone 'ByteLevel'",
         where, type);
  }
}

std::string Decoder::decode(Texts tokens) const {
  for (const auto& step : steps_) tokens = step(std::move(tokens));
  return joined(tokens);
}

}  // namespace apb
