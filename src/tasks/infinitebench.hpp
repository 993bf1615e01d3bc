// Tasks of InfiniteBench (Zhang et al., 2024, arXiv 2402.13718), by its public definitions: made at any length, or out
// of its published files. Prompts are worded as published, since scores depend on them; the code is our own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/tokenizer.hpp"
#include "tasks/generate.hpp"

namespace apb {

/// The tasks that can be made: passkey, number_string, kv_retrieval.
const std::vector<std::string>& infinitebench_task_names();

/// The task of one of these names.
TaskDefinition infinitebench_task(const std::string& name, const TaskFiles& files, std::int64_t length);

/// JSON Lines like those of generate_tasks, out of a file that InfiniteBench publishes: its first `count` samples, in
/// its order, of the request's one task (those above, longbook_qa_eng or longdialogue_qa_eng). Prompts of more than
/// `length` tokens lose the middle of their context; they may end a token or two short where the ends meet. Fails where
/// the file or a line cannot be used, with the line's number, or the question leaves no room for a context.
std::string published_infinitebench(const std::filesystem::path& file, const TaskRequest& request,
                                    const Tokenizer& tokenizer, TemplateKind kind);

}  // namespace apb
