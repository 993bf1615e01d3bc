#include "tasks/suites.hpp"

#include "error.hpp"
#include "tasks/infinitebench.hpp"
#include "tasks/ruler.hpp"

namespace apb {

const std::vector<TaskSuite>& task_suites() {
  static const std::vector<TaskSuite> suites = {{"ruler", ruler_task_names(), ruler_task},
                                                {"infinitebench", infinitebench_task_names(), infinitebench_task}};
  return suites;
}

const TaskSuite& suite_named(std::string_view name) {
  std::string known;
  for (const TaskSuite& suite : task_suites()) {
    if (suite.name == name) return suite;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", suite.name);
  }
  fail_usage("'{}' is no suite of tasks; there are: {}", name, known);
}

}  // namespace apb
