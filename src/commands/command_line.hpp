// The program's command line: the one place where options are bound to their names.
#pragma once

#include <optional>
#include <string>

#include "commands/report.hpp"
#include "error.hpp"
#include "options.hpp"

namespace apb {

enum class Command { none, run, report, bench, plan, tasks_generate, tasks_score };

struct CommandLine {
  Command command = Command::none;
  RunOptions run{};
  ReportOptions report{};
  BenchOptions bench{};
  PlanOptions plan{};
  GenerateOptions generate{};
  ScoreOptions score{};
  std::string message{};  // help, version, or what is wrong; then there is no command
  ExitCode exit_code = ExitCode::success;
};

CommandLine parse_command_line(int argc, const char* const* argv);

/// The names that the command line knows a value by.
std::string name_of(Method value);
std::string name_of(AnchorPlacement value);
std::string name_of(CompressorKind value);

/// All options as a JSON object, for the results file.
std::string options_as_json(const RunOptions& options);
std::string options_as_json(const BenchOptions& options);
/// MethodOptions::automatic_blocks in such an object; nothing when it was not set.
std::optional<int> automatic_blocks_in(const std::string& options);

}  // namespace apb
