// Samples of a benchmark as input of apb run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tasks/fit.hpp"
#include "tasks/sources.hpp"
#include "tasks/suites.hpp"

namespace apb {

struct TaskRequest {
  std::vector<std::string> tasks;  // names, or "all"
  TaskFiles files;
  std::int64_t length = 0;     // tokens of the prompt
  std::int64_t positions = 0;  // of the model: prompt and answer together
  int count = 0;               // samples of each task
  std::uint64_t seed = 0;
};

/// JSON Lines (docs/quality.md), one sample a line, no two alike; the same request gives the same bytes. Fails where a
/// task is not known, lacks a file, or does not fit into the length or the model's positions.
std::string generate_tasks(const TaskSuite& suite, const TaskRequest& request, const Fitter& fitter);

/// The line of one sample.
std::string line_of(std::string_view suite, const std::string& name, const TaskDefinition& task,
                    const TaskRequest& request, const Sample& sample, int index);

/// Fails where prompt and answer are more than the model's positions.
void check_positions(const std::string& name, const TaskDefinition& task, const TaskRequest& request);

}  // namespace apb
