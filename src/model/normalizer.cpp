#include "model/normalizer.hpp"

#include <utility>

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;

Normalizer::Normalizer(const json& description) {
  if (!description.is_null()) add_step(description, "normalizer");
}

void Normalizer::add_step(const json& step, const std::string& where) {
  const auto type = json_field<std::string>(step, where, "type");
  if (type == "Sequence") {
    const auto steps = json_field<json::array_t>(step, where, "normalizers");
    for (std::size_t i = 0; i < steps.size(); ++i) add_step(steps[i], fmt::format("{}.normalizers[{}]", where, i));
  } else if (type == "NFC") {
    steps_.emplace_back([](const std::string& text) { return normalize_nfc(text); });
  } else if (type == "Prepend") {
    steps_.emplace_back([content = json_field<std::string>(step, where, "prepend")](const std::string& text) {
      return text.empty() ? text : content + text;
    });
  } else if (type == "Replace") {
    steps_.emplace_back([pattern = json_replaced_string(step, where),
                         content = json_field<std::string>(step, where, "content")](const std::string& text) {
      return replace_all(text, pattern, content);
    });
  } else {
    fail("{}.type is '{}', supported: 'Sequence', 'NFC', 'Prepend', 'Replace'", where, type);
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  for (const auto& step : steps_) result = step(std::move(result));
  return result;
}

}  // namespace apb
