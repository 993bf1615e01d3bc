// START HERE. MPI session, subcommands, and the one place where errors are caught.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "comm/mpi_communicator.hpp"
#include "commands/bench.hpp"
#include "commands/command_line.hpp"
#include "commands/plan.hpp"
#include "commands/report.hpp"
#include "commands/run.hpp"
#include "commands/tasks_generate.hpp"
#include "commands/tasks_score.hpp"
#include "error.hpp"

namespace {

/// Subcommands that need no other ranks, and no MPI.
bool works_alone(apb::Command command) {
  using enum apb::Command;
  return command == report || command == plan || command == tasks_score;
}

/// Whether a launcher has started this process as another rank than the first.
bool is_further_rank() {
  const auto is_set = [](const char* name) {
    const char* rank = std::getenv(name);
    return rank != nullptr && std::string(rank) != "0";
  };
  return is_set("OMPI_COMM_WORLD_RANK") || is_set("PMI_RANK") || is_set("PMIX_RANK") || is_set("SLURM_PROCID");
}

/// Written at once, so that what other ranks print does not get in between.
void print_error(const std::string& line) { std::cerr << line + '\n' << std::flush; }

int run_alone(const apb::CommandLine& line) {
  if (is_further_rank()) return static_cast<int>(apb::ExitCode::success);
  try {
    if (line.command == apb::Command::report) return apb::run_report(line.report);
    if (line.command == apb::Command::plan) return static_cast<int>(apb::plan(line.plan));
    return static_cast<int>(apb::tasks_score(line.score));
  } catch (const apb::Error& error) {
    print_error(fmt::format("apb: {}", error.what()));
    return static_cast<int>(error.exit_code());
  }
}

/// An error that all ranks share is printed once and ends the program in order; one that a rank has alone ends all
/// ranks.
int run_on_all_ranks(const apb::CommandLine& line, const std::string& command_line, apb::MpiCommunicator& world) {
  try {
    if (!line.message.empty()) {
      if (world.rank() == 0) (line.exit_code == apb::ExitCode::success ? std::cout : std::cerr) << line.message;
      return static_cast<int>(line.exit_code);
    }
    if (line.command == apb::Command::tasks_generate) {
      return static_cast<int>(apb::tasks_generate(line.generate, world));
    }
    const bool bench = line.command == apb::Command::bench;
    return static_cast<int>(bench ? apb::bench(line.bench, command_line, world)
                                  : apb::run(line.run, command_line, world));
  } catch (const apb::CommonError& error) {
    if (world.rank() == 0) print_error(fmt::format("apb: {}", error.what()));
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    print_error(fmt::format("apb: [rank {}] {}", world.rank(), error.what()));
    apb::abort_all_ranks(static_cast<int>(apb::ExitCode::unusable_input));
  }
}

}  // namespace

int main(int argc, char** argv) {
  static_cast<void>(
      std::signal(SIGXFSZ, SIG_IGN));  // a file size limit becomes an error of the write, and so a message
  const std::string command_line = fmt::format("{}", fmt::join(argv, argv + argc, " "));
  const apb::CommandLine line = apb::parse_command_line(argc, argv);
  if (works_alone(line.command)) return run_alone(line);
  const apb::MpiSession session(&argc, &argv);
  apb::MpiCommunicator world(MPI_COMM_WORLD, std::max(line.run.timeout, line.bench.run.timeout));
  return run_on_all_ranks(line, command_line, world);
}
