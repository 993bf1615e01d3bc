#include "tasks/generate.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "error.hpp"

namespace apb {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t most_draws = 200;  // of one sample, before it is given up

std::vector<std::string> chosen_tasks(const TaskSuite& suite, const std::vector<std::string>& names) {
  std::vector<std::string> chosen;
  for (const std::string& name : names) {
    if (name == "all") return suite.task_names;
    if (std::find(suite.task_names.begin(), suite.task_names.end(), name) == suite.task_names.end()) {
      fail_usage("--task '{}' is no task of {}; there are: all, {}", name, suite.name,
                 fmt::join(suite.task_names, ", "));
    }
    if (std::find(chosen.begin(), chosen.end(), name) == chosen.end()) chosen.push_back(name);
  }
  return chosen;
}

/// Draws the samples of one task.
class Sampler {
 public:
  Sampler(std::string name, const TaskDefinition& task, const TaskRequest& request, const Fitter& fitter)
      : name_(std::move(name)), task_(task), request_(request), fitter_(fitter) {}

  Sample sample(int index) {
    std::int64_t shortest = std::numeric_limits<std::int64_t>::max();
    for (std::uint64_t draw = 0; draw < most_draws; ++draw) {
      const TaskRandom random = TaskRandom(request_.seed)
                                    .derived(name_, static_cast<std::uint64_t>(request_.length))
                                    .derived("sample", static_cast<std::uint64_t>(index))
                                    .derived("draw", draw);
      const Draft draft = task_.draft(random, task_.fewest_units);
      const std::string what = fmt::format("{}\n{}", draft.query, fmt::join(draft.answers, "\n"));
      if (known_.contains(what)) continue;
      const std::int64_t tokens = fitter_.length(draft, 0);
      shortest = std::min(shortest, tokens);
      if (tokens > request_.length) continue;
      if (auto fitted = fitter_.fit(task_, random, request_.length)) {
        known_.insert(what);
        return *std::move(fitted);
      }
    }
    if (shortest == std::numeric_limits<std::int64_t>::max()) {
      fail("task {}: no more than {} samples that differ were found; lower --count", name_, index);
    }
    if (shortest > request_.length) {
      fail("task {}: needs at least {} tokens with this tokenizer and template, --length is {}", name_, shortest,
           request_.length);
    }
    fail("task {}: sample {} cannot be made exactly {} tokens long; try another --length or --seed", name_, index,
         request_.length);
  }

 private:
  std::string name_;
  const TaskDefinition& task_;
  const TaskRequest& request_;
  const Fitter& fitter_;
  std::unordered_set<std::string> known_;  // questions with their answers
};

}  // namespace

std::string line_of(std::string_view suite, const std::string& name, const TaskDefinition& task,
                    const TaskRequest& request, const Sample& sample, int index) {
  Json json = {{"id", fmt::format("{}-{}-{}-{:04}", suite, name, request.length, index)},
               {"context", sample.context},
               {"query", sample.query}};
  if (!sample.answer_prefix.empty()) json["answer_prefix"] = sample.answer_prefix;
  json["max_new_tokens"] = task.max_new_tokens;
  json["suite"] = suite;
  json["task"] = name;
  json["length"] = request.length;
  json["metric"] = task.metric;
  json["answers"] = sample.answers;
  if (!sample.evidence.empty()) json["evidence"] = sample.evidence;
  return json.dump() + "\n";
}

void check_positions(const std::string& name, const TaskDefinition& task, const TaskRequest& request) {
  if (request.length + task.max_new_tokens <= request.positions) return;
  fail("task {}: {} tokens and {} for the answer are more than the model's {} positions: lower --length to {} or less",
       name, request.length, task.max_new_tokens, request.positions, request.positions - task.max_new_tokens);
}

std::string generate_tasks(const TaskSuite& suite, const TaskRequest& request, const Fitter& fitter) {
  std::string lines;
  std::vector<std::pair<std::string, TaskDefinition>> tasks;
  for (const std::string& name : chosen_tasks(suite, request.tasks)) {
    tasks.emplace_back(name, suite.make(name, request.files, request.length));
    check_positions(name, tasks.back().second, request);
  }
  for (const auto& [name, task] : tasks) {
    Sampler sampler(name, task, request, fitter);
    for (int index = 0; index < request.count; ++index) {
      lines += line_of(suite.name, name, task, request, sampler.sample(index), index);
    }
  }
  return lines;
}

}  // namespace apb
