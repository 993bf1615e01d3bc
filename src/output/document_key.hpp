// Hashes that tell whether a document has been answered already.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace apb {

/// 32 hexadecimal digits (XXH3, 128 bits) of the pieces, each with its length before it, so that moving text from
/// one piece to the next gives another key.
std::string document_key(std::span<const std::string_view> pieces);

/// 32 hexadecimal digits that change when a model's files change. Of each file, in the order given: its size, its
/// first 1 MiB, and 64 pieces of 64 KiB evenly spaced from start to end. So a checkpoint of any size is read in
/// well under a second, and a change that spares all these pieces and the size goes unseen.
std::string fingerprint_files(std::span<const std::filesystem::path> files);

}  // namespace apb
