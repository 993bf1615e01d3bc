// Bytes and text: how byte-level BPE files spell bytes, UTF-8 checks, Unicode normalisation.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace apb {

/// The bytes that a token's spelling in tokenizer.json stands for ("Ġthe" is " the");
/// nothing if the spelling has a character that stands for no byte.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

/// Offset of the first byte that is not part of well-formed UTF-8; text.size() if there is none.
std::size_t find_invalid_utf8(std::string_view text);

/// The text with every longest ill-formed sequence replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view bytes);

/// The text with every `pattern` (not empty) replaced, from left to right.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

/// Unicode normalisation form C of well-formed UTF-8.
std::string normalize_nfc(std::string_view text);

}  // namespace apb
