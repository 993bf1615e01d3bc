// The files that InfiniteBench publishes: one JSON object a line, with id, context, input, answer and options.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "tasks/infinitebench.hpp"

namespace apb {
namespace {

using nlohmann::json;

/// How a published sample is asked, around its context and input.
struct PublishedTask {
  std::string_view name;
  std::string_view instruction;
  std::string_view before_input;
  std::string_view answer_prefix;
  std::string_view metric;
  int max_new_tokens;
};

constexpr std::array<PublishedTask, 5> published_tasks = {{
    {"passkey",
     "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
     "about the important information there.\n\n",
     "", " The pass key is", "first_integer", 6},
    {"number_string",
     "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you about the important "
     "information there.\n\n",
     "", " The sequence of digits is", "first_integer", 12},
    {"kv_retrieval", "Extract the value corresponding to the specified key in the JSON object below.\n\n", "", "",
     "word", 50},
    {"longbook_qa_eng", "Read the book and answer the question. Be very concise in your answer.\n\n",
     "Question: ", "\nAnswer:", "f1", 40},
    {"longdialogue_qa_eng",
     "Below is a dialogue script where one random occurrence of a character name is replaced with \"$$MASK$$\", and "
     "you should try to guess who that character is.\n\n",
     "", "\nThe name that has been replaced with $$MASK$$ is likely", "exact", 40},
}};

const PublishedTask& published_task(const std::vector<std::string>& names) {
  const auto* found = names.size() == 1 ? std::ranges::find(published_tasks, names.front(), &PublishedTask::name)
                                        : published_tasks.end();
  if (found != published_tasks.end()) return *found;
  std::vector<std::string_view> known;
  for (const auto& task : published_tasks) known.push_back(task.name);
  fail_usage("--data goes with one --task of {}", fmt::join(known, ", "));
}

std::string take_text(const json& object, const char* field) {
  const auto found = object.find(field);
  if (found == object.end()) fail("field {} is missing", field);
  if (!found->is_string()) fail("field {} is no text", field);
  return found->get<std::string>();
}

std::vector<std::string> take_answers(const json& object) {
  const auto found = object.find("answer");
  if (found == object.end()) fail("field answer is missing");
  if (found->is_string() && *found != "") return {found->get<std::string>()};
  const auto is_answer = [](const json& answer) { return answer.is_string() && answer != ""; };
  if (!found->is_array() || found->empty() || !std::ranges::all_of(*found, is_answer)) {
    fail("field answer is neither a text nor a list of texts");
  }
  return found->get<std::vector<std::string>>();
}

Sample read_sample(const std::string& line, const PublishedTask& task) {
  const json object = json::parse(line, nullptr, false);
  if (!object.is_object()) fail("is no JSON object");
  std::string context = take_text(object, "context");
  if (context.empty()) fail("field context is empty");
  return {.context = std::string(task.instruction) + context,
          .query = std::string(task.before_input) + take_text(object, "input"),
          .answer_prefix = std::string(task.answer_prefix),
          .answers = take_answers(object),
          .evidence = {}};
}

/// Cuts the middle out of prompts that are too long.
class Shortener {
 public:
  Shortener(const Tokenizer& tokenizer, TemplateKind kind, std::int64_t length)
      : tokenizer_(tokenizer), template_(kind), length_(length) {}

  void shorten(Sample& sample) const {
    const Prompt prompt = prompt_of(sample);
    const std::int64_t context = size_of_tokens(prompt.context);
    const std::int64_t query = size_of_tokens(prompt.query);
    if (context + query <= length_) return;
    const std::int64_t rest = prompt.prefix_length + query;
    // As published: one half of the length is the prompt's beginning, the other its end.
    std::int64_t head = length_ / 2 - prompt.prefix_length;
    const std::int64_t tail = length_ - length_ / 2 - query;
    if (head < 1 || tail < 1) {
      fail("question and template have {} tokens, --length {} leaves no room for the context: take {} or more", rest,
           length_, 2 * std::max(prompt.prefix_length, query) + 2);
    }
    const std::vector<std::int32_t> tokens(prompt.context.begin() + prompt.prefix_length, prompt.context.end());
    const std::string end = without_cut_character(tokenizer_.decode({tokens.end() - tail, tokens.end()}));
    std::int64_t tokens_now = length_ + 1;  // where the ends meet, tokens can be others than before
    for (; head > 0 && tokens_now > length_; --head) {
      sample.context = without_cut_character(tokenizer_.decode({tokens.begin(), tokens.begin() + head})) + end;
      const Prompt shortened = prompt_of(sample);
      tokens_now = size_of_tokens(shortened.context) + size_of_tokens(shortened.query);
    }
  }

 private:
  static std::int64_t size_of_tokens(const std::vector<std::int32_t>& tokens) { return std::ssize(tokens); }

  Prompt prompt_of(const Sample& sample) const {
    return build_prompt(template_, tokenizer_, sample.context, sample.query, sample.answer_prefix);
  }

  /// Tokens can begin and end inside a character; what is left of it decodes to U+FFFD.
  static std::string without_cut_character(std::string text) {
    constexpr std::string_view replacement = "\xEF\xBF\xBD";
    while (text.starts_with(replacement)) text.erase(0, replacement.size());
    while (text.ends_with(replacement)) text.erase(text.size() - replacement.size());
    return text;
  }

  const Tokenizer& tokenizer_;
  TemplateKind template_;
  std::int64_t length_;
};

}  // namespace

std::string published_infinitebench(const std::filesystem::path& file, const TaskRequest& request,
                                    const Tokenizer& tokenizer, TemplateKind kind) {
  const PublishedTask& task = published_task(request.tasks);
  const std::string name(task.name);
  const TaskDefinition definition = {.metric = std::string(task.metric), .max_new_tokens = task.max_new_tokens};
  check_positions(name, definition, request);
  const Shortener shortener(tokenizer, kind, request.length);
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("{}: cannot be opened: {}", file.string(), std::strerror(errno));
  std::string lines;
  std::string text;
  int index = 0;
  for (std::int64_t line = 1; index < request.count && std::getline(stream, text); ++line) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      Sample sample = read_sample(text, task);
      shortener.shorten(sample);
      lines += line_of("infinitebench", name, definition, request, sample, index++);
    } catch (const Error& error) {
      fail("{}: line {}: {}", file.string(), line, error.what());
    }
  }
  if (stream.bad()) fail("{}: cannot be read: {}", file.string(), std::strerror(errno));
  if (lines.empty()) fail("{}: has no samples", file.string());
  return lines;
}

}  // namespace apb
