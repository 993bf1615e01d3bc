// Fields of a JSON configuration file, with errors that name file, field and value.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "error.hpp"

namespace apb {

inline constexpr std::int64_t largest_int = std::numeric_limits<int>::max();

/// An object of a JSON file, read field by field; a null field counts as missing.
class JsonFields {
 public:
  JsonFields(std::string file, std::string prefix, const nlohmann::json& object)
      : file_(std::move(file)), prefix_(std::move(prefix)), object_(object) {}

  bool has(const char* name) const { return object_.contains(name) && !object_[name].is_null(); }

  const nlohmann::json& value(const char* name) const {
    if (!has(name)) fail("{}: field {}{} is missing", file_, prefix_, name);
    return object_[name];
  }

  [[noreturn]] void reject(const char* name, std::string_view expected) const {
    fail("{}: field {}{} is {}, {}", file_, prefix_, name, value(name).dump(), expected);
  }

  std::int64_t positive_integer(const char* name, std::int64_t largest = largest_int) const {
    const nlohmann::json& found = value(name);
    if (!found.is_number_unsigned() || found.get<std::uint64_t>() == 0 ||
        found.get<std::uint64_t>() > static_cast<std::uint64_t>(largest)) {
      reject(name, fmt::format("expected an integer from 1 to {}", largest));
    }
    return found.get<std::int64_t>();
  }

  int positive_int(const char* name) const { return static_cast<int>(positive_integer(name)); }

  double positive_number(const char* name) const {
    const nlohmann::json& found = value(name);
    if (!found.is_number() || !(found.get<double>() > 0.0)) reject(name, "expected a number above 0");
    return found.get<double>();
  }

  double non_negative_number(const char* name) const {
    const nlohmann::json& found = value(name);
    if (!found.is_number() || !(found.get<double>() >= 0.0)) reject(name, "expected a number, 0 or above");
    return found.get<double>();
  }

  bool boolean(const char* name, bool if_missing) const {
    if (!has(name)) return if_missing;
    if (!value(name).is_boolean()) reject(name, "expected true or false");
    return value(name).get<bool>();
  }

  // Fails where the field is there and is anything but the one value that is supported.
  void expect(const char* name, const nlohmann::json& supported) const {
    if (has(name) && value(name) != supported) reject(name, fmt::format("supported: {}", supported.dump()));
  }

  JsonFields object(const char* name) const {
    if (!value(name).is_object()) reject(name, "expected an object");
    return {file_, fmt::format("{}{}.", prefix_, name), value(name)};
  }

  /// The field's name for a message, with the objects that it is in.
  std::string name(const char* field) const { return prefix_ + field; }
  const std::string& file() const { return file_; }

 private:
  std::string file_;
  std::string prefix_;  // "outer." for the fields of an object inside the file's
  const nlohmann::json& object_;
};

}  // namespace apb
