// The chat format around a document and a question.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/tokenizer.hpp"

namespace apb {

enum class TemplateKind { none, llama2, llama3, chatml };

/// One document and one question as tokens.
struct Prompt {
  std::vector<std::int32_t> context;  // BOS, template, document
  std::vector<std::int32_t> query;    // question, template up to where the answer starts, the answer's prefix
  std::int64_t prefix_length = 0;     // tokens of context before the document
};

/// The template of this name: "none", "llama2", "llama3", "chatml", or "auto" for the one that the tokenizer has the
/// control tokens of. Wrong usage if there is no such template or the tokenizer lacks its tokens.
TemplateKind choose_template(std::string_view name, const Tokenizer& tokenizer);

/// The name that choose_template knows it by.
std::string_view template_name(TemplateKind kind);

/// Text of the document and the question is never read as control tokens. Document and question are encoded on their
/// own: where the tokenizer puts a space before a text, it does so before each. The answer's prefix is ordinary text,
/// too, and the answer goes on where it ends.
Prompt build_prompt(TemplateKind kind, const Tokenizer& tokenizer, std::string_view document, std::string_view question,
                    std::string_view answer_prefix = {});

/// Prompt::query alone, for a further question about the same document.
std::vector<std::int32_t> build_query(TemplateKind kind, const Tokenizer& tokenizer, std::string_view question,
                                      std::string_view answer_prefix = {});

}  // namespace apb
