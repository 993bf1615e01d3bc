#include "commands/report.hpp"

#include <iostream>

#include "error.hpp"
#include "output/results.hpp"
#include "output/summary.hpp"

namespace apb {

int run_report(const ReportOptions& options) {
  const Results results = read_results(options.file, Arrays::skip);
  if (options.jsonl) {
    print_json_lines(std::cout, results);
  } else {
    print_summary(std::cout, results);
  }
  std::cout.flush();
  if (!std::cout) fail("standard output: cannot be written");
  return static_cast<int>(ExitCode::success);
}

}  // namespace apb
