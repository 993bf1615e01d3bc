// The benchmarks that tasks can be made of.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tasks/sources.hpp"
#include "tasks/task.hpp"

namespace apb {

struct TaskSuite {
  std::string_view name;
  std::vector<std::string> task_names;
  /// The task of one of these names for prompts of `length` tokens; fails with what is missing.
  TaskDefinition (*make)(const std::string& name, const TaskFiles& files, std::int64_t length);
};

/// All of them. A further one is a file with such a function, and a line here.
const std::vector<TaskSuite>& task_suites();

/// The suite of this name. Wrong usage if there is none.
const TaskSuite& suite_named(std::string_view name);

}  // namespace apb
