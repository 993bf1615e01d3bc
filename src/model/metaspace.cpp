#include "model/metaspace.hpp"

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;

Metaspace::Metaspace(const json& description, const std::string& where)
    : replacement_(json_field<std::string>(description, where, "replacement")),
      split_(description.contains("split") ? json_field<bool>(description, where, "split") : true) {
  if (replacement_.empty()) fail("{}.replacement is empty", where);
  json_expect(description, where, "prepend_scheme", {"first", "always", "never"});
  json_expect(description, where, "add_prefix_space", {true, false});
  const auto scheme = description.value("prepend_scheme", "always");
  if (scheme == "first") prepend_ = Prepend::first;
  if (scheme == "never" || !description.value("add_prefix_space", true)) prepend_ = Prepend::never;
}

void Metaspace::split(std::string_view text, bool first, const PieceVisitor& visit) const {
  auto spelled = replace_all(text, " ", replacement_);
  const bool prepends = prepend_ == Prepend::always || (prepend_ == Prepend::first && first);
  if (prepends && !spelled.starts_with(replacement_)) spelled.insert(0, replacement_);
  const std::string_view all = spelled;
  std::size_t start = 0;
  while (split_ && start < all.size()) {
    const auto next = all.find(replacement_, start + 1);
    if (next == std::string_view::npos) break;
    visit(all.substr(start, next - start));
    start = next;
  }
  if (start < all.size()) visit(all.substr(start));
}

std::string Metaspace::decode(std::string_view token, bool first) const {
  const bool drops = first && prepend_ != Prepend::never;
  return replace_all(token, replacement_, drops ? "" : " ");
}

}  // namespace apb
