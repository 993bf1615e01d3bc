#include "model/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include "error.hpp"
#include "model/tokenizer_json.hpp"

namespace apb {

using nlohmann::json;

std::vector<AddedToken> read_added_tokens(const json& list) {
  if (!list.is_array()) fail("added_tokens is not a list");
  std::vector<AddedToken> tokens;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto where = fmt::format("added_tokens[{}]", i);
    for (const char* name : {"single_word", "lstrip", "rstrip"}) json_expect(list[i], where, name, {false});
    AddedToken token;
    token.content = json_field<std::string>(list[i], where, "content");
    token.id = json_field<std::int32_t>(list[i], where, "id");
    token.special = json_field<bool>(list[i], where, "special");
    token.normalized = json_field<bool>(list[i], where, "normalized");
    if (token.content.empty()) fail("{}.content is empty", where);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void AddedTokenFinder::add(AddedToken token) {
  auto& tokens = by_first_byte_.at(static_cast<unsigned char>(token.content[0]));
  const auto shorter = [&](const AddedToken& other) { return other.content.size() < token.content.size(); };
  const auto position = std::find_if(tokens.begin(), tokens.end(), shorter);
  tokens.insert(position, std::move(token));
}

const AddedToken* AddedTokenFinder::find_at(std::string_view text, std::size_t offset) const {
  for (const auto& token : by_first_byte_.at(static_cast<unsigned char>(text[offset]))) {
    if (text.compare(offset, token.content.size(), token.content) == 0) return &token;
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, bool recognise_special, const Visitor& visit) const {
  std::size_t done = 0;
  for (std::size_t offset = 0; offset < text.size();) {
    const auto* token = find_at(text, offset);
    if (token == nullptr) {
      ++offset;
      continue;
    }
    const auto end = offset + token->content.size();
    if (!token->special || recognise_special) {
      if (done < offset) visit(text.substr(done, offset - done), std::nullopt);
      visit(text.substr(offset, end - offset), token->id);
      done = end;
    }
    offset = end;
  }
  if (done < text.size()) visit(text.substr(done), std::nullopt);
}

}  // namespace apb
