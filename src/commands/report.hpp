// apb report FILE.h5 [--jsonl]: what is in a results or part file.
#pragma once

#include <filesystem>

namespace apb {

struct ReportOptions {
  std::filesystem::path file;
  bool jsonl = false;  // one JSON object a row instead of a summary
};

/// Prints the report to standard output and returns the exit code.
int run_report(const ReportOptions& options);

}  // namespace apb
