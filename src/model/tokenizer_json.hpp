// Reading fields of tokenizer.json, with errors that name the field and its value.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "error.hpp"

namespace apb {

/// object[name]; `where` is the object's own place in the file, for the message.
inline const nlohmann::json& json_child(const nlohmann::json& object, const std::string& where,
                                        const std::string& name) {
  if (!object.is_object() || !object.contains(name)) fail("{}.{} is missing", where, name);
  return object[name];
}

/// object[name] as T.
template <typename T>
T json_field(const nlohmann::json& object, const std::string& where, const std::string& name) {
  const auto& value = json_child(object, where, name);
  try {
    return value.get<T>();
  } catch (const nlohmann::json::exception&) {
    fail("{}.{} has the wrong type ({})", where, name, value.type_name());
  }
}

/// The string that a Replace step looks for; regular expressions are not supported.
inline std::string json_replaced_string(const nlohmann::json& step, const std::string& where) {
  const auto& pattern = json_child(step, where, "pattern");
  if (!pattern.is_object() || !pattern.contains("String")) {
    fail("{}.pattern is {}, supported: a String", where, pattern.dump());
  }
  auto text = json_field<std::string>(pattern, where + ".pattern", "String");
  if (text.empty()) fail("{}.pattern.String is empty", where);
  return text;
}

/// Fails unless object[name] is missing or one of the supported values.
inline void json_expect(const nlohmann::json& object, const std::string& where, const char* name,
                        std::initializer_list<nlohmann::json> supported) {
  if (!object.is_object()) fail("{} is not an object", where);
  if (!object.contains(name)) return;
  std::string names;
  for (const auto& value : supported) {
    if (object[name] == value) return;
    names += (names.empty() ? "" : ", ") + value.dump();
  }
  fail("{}.{} is {}, supported: {}", where, name, object[name].dump(), names);
}

}  // namespace apb
