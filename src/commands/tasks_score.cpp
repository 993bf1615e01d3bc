#include "commands/tasks_score.hpp"

#include <iostream>
#include <span>

#include "output/durable_file.hpp"
#include "output/parts.hpp"
#include "tasks/score_tables.hpp"

namespace apb {
namespace {

namespace fs = std::filesystem;

/// The rows of a results file, or of the parts of a run that goes on.
Results read_rows(const fs::path& path) {
  return fs::is_directory(path) ? read_parts(path) : read_results(path, Arrays::skip);
}

void refuse_to_replace_input(const ScoreOptions& options) {
  for (const auto& file : options.files) {
    std::error_code ignored;
    if (fs::equivalent(file, options.json, ignored))
      fail_usage("--json {} would replace a results file", file.string());
  }
}

}  // namespace

ExitCode tasks_score(const ScoreOptions& options) {
  refuse_to_replace_input(options);
  std::vector<FileScores> files;
  for (const auto& file : options.files) files.push_back(score_results(file.string(), read_rows(file)));
  if (!options.json.empty()) {
    const std::string json = scores_as_json(files);
    replace_file(options.json, std::as_bytes(std::span(json)));
  }
  print_scores(std::cout, files);
  std::cout.flush();
  if (!std::cout) fail("standard output: cannot be written");
  return ExitCode::success;
}

}  // namespace apb
