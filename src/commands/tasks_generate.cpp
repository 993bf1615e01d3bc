#include "commands/tasks_generate.hpp"

#include <iostream>
#include <span>

#include "model/config.hpp"
#include "model/tokenizer.hpp"
#include "output/durable_file.hpp"
#include "tasks/infinitebench.hpp"

namespace apb {
namespace {

void generate(const GenerateOptions& options) {
  if (std::filesystem::exists(options.output) && !options.overwrite) {
    fail("{} exists already; replace it with --overwrite", options.output.string());
  }
  const auto folder = std::filesystem::absolute(options.output).parent_path();
  if (!std::filesystem::is_directory(folder)) fail("{}: there is no such folder; make it first", folder.string());
  const TaskSuite& suite = suite_named(options.suite);
  if (!options.data.empty() && suite.name != "infinitebench") fail_usage("--data goes with the suite infinitebench");
  const ModelConfig config = load_config(options.model);
  const Tokenizer tokenizer = Tokenizer::load(options.model / "tokenizer.json");
  const TemplateKind kind = choose_template(options.prompt_template, tokenizer);
  const TaskRequest request{
      .tasks = options.tasks,
      .files = {options.words, options.essays, options.squad, options.hotpotqa},
      .length = options.length,
      .positions = config.max_positions,
      .count = options.count,
      .seed = options.seed,
  };
  const std::string lines = options.data.empty() ? generate_tasks(suite, request, Fitter(tokenizer, kind))
                                                 : published_infinitebench(options.data, request, tokenizer, kind);
  replace_file(options.output, std::as_bytes(std::span(lines)));
}

}  // namespace

ExitCode tasks_generate(const GenerateOptions& options, Communicator& world) {
  agree(world, [&] {
    if (world.rank() == 0) generate(options);
  });
  return ExitCode::success;
}

}  // namespace apb
