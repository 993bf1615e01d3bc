// JSON from a file, with errors that name the file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace apb {

/// The JSON object in a file. Fails if the file cannot be opened or holds anything else.
nlohmann::json read_json_object(const std::filesystem::path& file);

/// What is wrong with a JSON text: one line that does not quote the text, which may be long.
std::string json_problem(const nlohmann::json::exception& error);

}  // namespace apb
