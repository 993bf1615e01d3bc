#include "input/documents.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>
#include <unordered_map>

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/json_file.hpp"

namespace apb {
namespace {

using nlohmann::json;
using Path = std::filesystem::path;

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
constexpr int deepest_nesting = 100;
constexpr std::size_t longest_quote = 60;  // bytes of a wrong value in a message

std::ifstream open_to_read(const Path& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) fail("{}: is a folder, expected a file", file.string());
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("{}: cannot be opened: {}", file.string(), std::strerror(errno));
  return stream;
}

// What can be told about a line without keeping its text.
struct LineScan {
  std::string id;     // empty: the line has none
  std::string error;  // why the line is no document at all
  int questions = 1;
};

std::string quote(const json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > longest_quote) text = text.substr(0, longest_quote) + "...";
  return text;
}

LineScan scan_id(const json& object) {
  const bool several = object.contains("queries") && object["queries"].is_array();
  const int questions = several ? std::max(1, static_cast<int>(object["queries"].size())) : 1;
  if (!object.contains("id") || object["id"].is_null()) return {"", "", questions};
  const json& id = object["id"];
  if (id.is_number()) return {id.dump(), "", questions};
  if (!id.is_string()) return {"", fmt::format("field id is {}, expected a string or a number", quote(id))};
  const auto& text = id.get_ref<const std::string&>();
  if (text.empty() || text.find('\0') != std::string::npos) {
    return {"", fmt::format("field id is {}, expected text without NUL characters", quote(id))};
  }
  return {text, "", questions};
}

LineScan scan_line(std::string_view line) {
  const auto invalid = find_invalid_utf8(line);
  if (invalid < line.size()) return {"", fmt::format("not UTF-8 at byte {} of the line; convert it to UTF-8", invalid)};
  bool too_deep = false;
  const auto keep_only = [&](int depth, json::parse_event_t event, json& parsed) {
    too_deep = too_deep || depth > deepest_nesting;
    if (event != json::parse_event_t::key) return true;
    const auto& name = parsed.get_ref<const std::string&>();
    return name == "id" || name == "queries";
  };
  try {
    const json object = json::parse(line, keep_only);
    if (too_deep) return {"", fmt::format("JSON nested deeper than {} levels", deepest_nesting)};
    if (!object.is_object()) return {"", fmt::format("holds a JSON {}, expected an object", object.type_name())};
    return scan_id(object);
  } catch (const json::exception& error) {
    return {"", "not valid JSON: " + json_problem(error)};
  }
}

std::string take_text(const json& value, const std::string& name) {
  if (!value.is_string()) fail("field {} is {}, expected a string", name, quote(value));
  auto text = value.get<std::string>();
  if (text.empty()) fail("field {} is empty", name);
  return text;
}

std::vector<std::int32_t> take_tokens(const json& value, const std::string& name) {
  if (!value.is_array()) fail("field {} is {}, expected a list of token ids", name, quote(value));
  if (value.empty()) fail("field {} is empty", name);
  std::vector<std::int32_t> tokens;
  tokens.reserve(value.size());
  for (const auto& token : value) {
    if (!token.is_number_unsigned() || token.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      fail("field {} has {} at index {}, expected token ids, integers from 0", name, quote(token), tokens.size());
    }
    tokens.push_back(token.get<std::int32_t>());
  }
  return tokens;
}

int take_max_new_tokens(const json& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < 1 ||
      value.get<std::uint64_t>() > std::numeric_limits<int>::max()) {
    fail("field max_new_tokens is {}, expected an integer from 1", quote(value));
  }
  return value.get<int>();
}

// All questions, as text or as token ids like the context.
void take_questions(const json& questions, const std::string& name, Document& document) {
  if (!questions.is_array() || questions.empty())
    fail("field {} is {}, expected a list of questions", name, quote(questions));
  for (const json& question : questions) {
    if (document.tokenised) {
      document.query_tokens.push_back(take_tokens(question, name));
    } else {
      document.queries.push_back(take_text(question, name));
    }
  }
}

// Fills the document from its line; a null field counts as missing. Fails with the sentence for Document.error.
void take_fields(const json& object, Document& document) {
  const auto has = [&](const char* name) { return object.contains(name) && !object[name].is_null(); };
  document.tokenised = has("context_tokens") || has("query_tokens");
  if (document.tokenised && (has("context") || has("query"))) {
    fail("has both text and tokens: give context and query, or context_tokens and query_tokens");
  }
  const char* const context = document.tokenised ? "context_tokens" : "context";
  const char* const query = document.tokenised ? "query_tokens" : "query";
  if (has(query) && has("queries")) fail("has both {} and queries: give one of them", query);
  if (!has(context)) fail("field {} is missing", context);
  if (!has(query) && !has("queries")) fail("field {} is missing", query);
  if (document.tokenised) {
    document.context_tokens = take_tokens(object[context], context);
  } else {
    document.context = take_text(object[context], context);
  }
  if (has("answer_prefix")) {
    if (document.tokenised) fail("field answer_prefix goes with text; append its tokens to {}", query);
    document.answer_prefix = take_text(object["answer_prefix"], "answer_prefix");
  }
  take_questions(has("queries") ? object["queries"] : json::array({object[query]}), has("queries") ? "queries" : query,
                 document);
  if (has("max_new_tokens")) document.max_new_tokens = take_max_new_tokens(object["max_new_tokens"]);
}

std::string other_fields(json object) {
  for (const char* name :
       {"id", "context", "query", "context_tokens", "query_tokens", "queries", "answer_prefix", "max_new_tokens"}) {
    object.erase(name);
  }
  return object.dump();
}

}  // namespace

std::string question_id(const std::string& document_id, int question) {
  return question == 0 ? document_id : fmt::format("{}#{}", document_id, question + 1);
}

DocumentFile DocumentFile::open(const Path& file) {
  auto stream = open_to_read(file);
  if (!std::filesystem::is_regular_file(file)) fail("{}: is no regular file, and it is read twice", file.string());
  DocumentFile documents(file);
  std::string text;
  std::int64_t offset = 0;
  for (std::int64_t line = 1; std::getline(stream, text); ++line) {
    const std::size_t skipped = line == 1 && text.starts_with(byte_order_mark) ? byte_order_mark.size() : 0;
    const auto content = std::string_view(text).substr(skipped);
    if (content.find_first_not_of(" \t\r") != std::string_view::npos) {
      auto [id, error, questions] = scan_line(content);
      if (id.empty()) id = fmt::format("line-{}", line);
      documents.entries_.push_back({std::move(id), std::move(error), line, offset + static_cast<std::int64_t>(skipped),
                                    content.size(), questions});
    }
    offset += static_cast<std::int64_t>(text.size()) + 1;
  }
  if (stream.bad()) fail("{}: cannot be read: {}", file.string(), std::strerror(errno));
  if (documents.entries_.empty()) fail("{}: has no documents; give one JSON object a line", file.string());
  documents.check_ids();
  return documents;
}

void DocumentFile::check_ids() const {
  std::unordered_map<std::string, std::int64_t> lines;
  for (const auto& entry : entries_) {
    for (int question = 0; question < entry.questions; ++question) {
      const auto [first, is_new] = lines.emplace(question_id(entry.id, question), entry.line);
      if (!is_new) {
        fail("{}: lines {} and {} have the same id \"{}\"; give every document its own", file_.string(), first->second,
             entry.line, first->first);
      }
    }
  }
}

std::vector<int> DocumentFile::longest_first() const {
  std::vector<int> order(entries_.size());
  std::iota(order.begin(), order.end(), 0);
  const auto bytes = [&](int index) { return entries_[static_cast<std::size_t>(index)].bytes; };
  std::ranges::stable_sort(order, std::ranges::greater(), bytes);
  return order;
}

Document DocumentFile::read(int index) const {
  const Entry& entry = entries_.at(static_cast<std::size_t>(index));
  Document document;
  document.id = entry.id;
  document.line = entry.line;
  if (!entry.error.empty()) {
    document.error = fmt::format("line {}: {}", entry.line, entry.error);
    return document;
  }
  auto stream = open_to_read(file_);
  std::string text(entry.bytes, '\0');
  stream.seekg(entry.offset);
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  const json object = stream ? json::parse(text, nullptr, false) : json();
  if (!object.is_object()) fail("{}: line {} has changed since the run began", file_.string(), entry.line);
  document.metadata = other_fields(object);
  try {
    take_fields(object, document);
  } catch (const Error& error) {
    document.error = fmt::format("line {}: {}", entry.line, error.what());
  }
  return document;
}

Document document_from_text_file(const Path& file, const std::string& question) {
  if (question.empty()) fail_usage("--question is empty; give the question to ask about {}", file.string());
  if (find_invalid_utf8(question) < question.size()) {
    fail_usage("--question is not UTF-8 at byte {}", find_invalid_utf8(question));
  }
  auto stream = open_to_read(file);
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (stream.bad()) fail("{}: cannot be read: {}", file.string(), std::strerror(errno));
  const auto invalid = find_invalid_utf8(text);
  if (invalid < text.size()) fail("{}: not UTF-8 at byte {}; convert it to UTF-8", file.string(), invalid);
  if (text.starts_with(byte_order_mark)) text.erase(0, byte_order_mark.size());
  if (text.empty()) fail("{}: is empty", file.string());

  Document document;
  document.id = file.filename().string();
  document.context = std::move(text);
  document.queries = {question};
  return document;
}

}  // namespace apb
