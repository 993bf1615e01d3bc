#include "model/json_file.hpp"

#include <fstream>

#include "error.hpp"

namespace apb {

nlohmann::json read_json_object(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file)) fail("{}: cannot be opened", file.string());
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(stream);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}", file.string(), json_problem(error));
  }
  if (!object.is_object()) fail("{}: holds a JSON {}, expected an object", file.string(), object.type_name());
  return object;
}

// The library writes "[json.exception.NAME.NUMBER] problem; last read: 'text'; expected ...".
std::string json_problem(const nlohmann::json::exception& error) {
  std::string text = error.what();
  const auto name_end = text.find("] ");
  if (name_end != std::string::npos) text.erase(0, name_end + 2);
  return text.substr(0, text.find("; last read: "));
}

}  // namespace apb
