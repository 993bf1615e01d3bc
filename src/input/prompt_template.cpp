#include "input/prompt_template.hpp"

#include <array>
#include <string>

#include "error.hpp"

namespace apb {

namespace {

struct Template {
  TemplateKind kind;
  std::string_view name;
  std::string_view marker;  // a control token that only tokenizers of this template have
  std::string_view before_document;
  std::string_view before_question;
  std::string_view ends_question;  // ordinary text, encoded with the question
  std::string_view after_question;
};

constexpr std::array<Template, 4> templates{{
    {TemplateKind::none, "none", "", "", "\n\n", "", ""},
    {TemplateKind::llama2, "llama2", "<s>", "<s>[INST]", "\n\n", " [/INST]", ""},
    {TemplateKind::llama3, "llama3", "<|start_header_id|>",
     "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n", "\n\n", "",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
    {TemplateKind::chatml, "chatml", "<|im_start|>", "<|im_start|>user\n", "\n\n", "",
     "<|im_end|>\n<|im_start|>assistant\n"},
}};

// Qwen3 thinks before it answers, unless the answer begins with thoughts that are empty.
constexpr std::string_view thinking_token = "<think>";
constexpr std::string_view no_thoughts = "<think>\n\n</think>\n\n";

const Template& template_of(TemplateKind kind) {
  for (const auto& candidate : templates) {
    if (candidate.kind == kind) return candidate;
  }
  fail("unknown template kind {}", static_cast<int>(kind));
}

bool has_marker(const Tokenizer& tokenizer, const Template& candidate) {
  return tokenizer.token_id(candidate.marker).has_value();
}

void append(std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

}  // namespace

TemplateKind choose_template(std::string_view name, const Tokenizer& tokenizer) {
  if (name == "auto") {
    for (const auto kind : {TemplateKind::chatml, TemplateKind::llama3, TemplateKind::llama2}) {
      if (has_marker(tokenizer, template_of(kind))) return kind;
    }
    return TemplateKind::none;
  }
  for (const auto& candidate : templates) {
    if (candidate.name != name) continue;
    if (candidate.kind != TemplateKind::none && !has_marker(tokenizer, candidate)) {
      fail_usage("template '{}' needs the token {}, which the model's tokenizer does not have; use 'auto' or 'none'",
                 name, candidate.marker);
    }
    return candidate.kind;
  }
  fail_usage("template '{}' is not known; use auto, none, llama2, llama3 or chatml", name);
}

std::string_view template_name(TemplateKind kind) { return template_of(kind).name; }

Prompt build_prompt(TemplateKind kind, const Tokenizer& tokenizer, std::string_view document, std::string_view question,
                    std::string_view answer_prefix) {
  Prompt prompt;
  prompt.context = tokenizer.encode(template_of(kind).before_document);
  const auto first = tokenizer.beginning_of_sequence();
  if (kind == TemplateKind::none && first) prompt.context.push_back(*first);
  prompt.prefix_length = static_cast<std::int64_t>(prompt.context.size());
  append(prompt.context, tokenizer.encode_ordinary(document));
  prompt.query = build_query(kind, tokenizer, question, answer_prefix);
  return prompt;
}

std::vector<std::int32_t> build_query(TemplateKind kind, const Tokenizer& tokenizer, std::string_view question,
                                      std::string_view answer_prefix) {
  const auto& used = template_of(kind);
  const std::string asked = fmt::format("{}{}{}", used.before_question, question, used.ends_question);
  // Without control tokens in between it is one text.
  if (used.after_question.empty()) return tokenizer.encode_ordinary(asked + std::string(answer_prefix));
  auto query = tokenizer.encode_ordinary(asked);
  append(query, tokenizer.encode(used.after_question));
  if (kind == TemplateKind::chatml && tokenizer.token_id(thinking_token)) append(query, tokenizer.encode(no_thoughts));
  append(query, tokenizer.encode_ordinary(answer_prefix));
  return query;
}

}  // namespace apb
