// Files that are there whole or not at all, whatever ends the process or the machine.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace apb {

/// The name under which `path` is written before it is renamed.
std::filesystem::path temporary_name(const std::filesystem::path& path);

/// Writes `bytes` under the temporary name, syncs, renames to `path`, and syncs the folder. On an error (a full
/// disk) the temporary file is removed, `path` is as it was, and an Error says so.
void replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes);

}  // namespace apb
