#include "commands/run.hpp"

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>

#include "comm/mpi_communicator.hpp"
#include "comm/placement.hpp"
#include "comm/work_queue.hpp"
#include "commands/answer.hpp"
#include "commands/command_line.hpp"
#include "commands/coordinator.hpp"
#include "commands/job.hpp"
#include "commands/load.hpp"
#include "commands/make_device.hpp"
#include "commands/memory_check.hpp"
#include "commands/memory_report.hpp"
#include "commands/preparation.hpp"
#include "commands/stop_signal.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/memory.hpp"
#include "context/partition.hpp"
#include "model/safetensors.hpp"
#include "output/parts.hpp"

namespace apb {
namespace {

bool depends_on_blocks(Method method) { return method == Method::apb || method == Method::star; }

/// Two blocks per rank of a document (star: one), but a resumed run keeps those of the ranks that its output began
/// with: answers depend on them.
int choose_automatic_blocks(const RunOptions& options, int ranks) {
  const auto earlier = options.resume && !options.output.empty() ? find_run(options.output) : std::nullopt;
  const int blocks = (earlier ? automatic_blocks_in(earlier->options) : std::nullopt)
                         .value_or(options.method.method == Method::star ? ranks : 2 * ranks);
  if (blocks % ranks != 0) {
    fail_usage("{} was begun with {} blocks, which is no multiple of the {} ranks{}: resume it on {} ranks{}",
               options.output.string(), blocks, ranks, options.ranks_per_document > 0 ? " per document" : "",
               divisors_of(blocks), options.ranks_per_document > 0 ? " per document" : "");
  }
  return blocks;
}

/// What all ranks do, with what was left to choose before the first document filled in.
RunOptions complete(RunOptions options, const Placement& placement) {
  MpiCommunicator& world = placement.world();
  const int ranks = placement.group().size();
  int blocks = 0;
  agree(world, [&] {
    check_blocks(options.method, ranks);
    const bool chooses = depends_on_blocks(options.method.method) && !options.method.blocks;
    if (chooses && world.rank() == 0) blocks = choose_automatic_blocks(options, ranks);
  });
  world.broadcast(std::as_writable_bytes(std::span(&blocks, 1)), 0);
  if (blocks > 0) options.method.automatic_blocks = blocks;
  options.overlap = choose_overlap(options.overlap, placement.group());
  return options;
}

ModelSources open_sources(const RunOptions& options, int threads) {
  ModelSources sources{.weights = std::make_unique<Checkpoint>(Checkpoint::open(options.model, threads))};
  if (!options.retaining_heads.empty()) {
    sources.retaining_heads = std::make_unique<Checkpoint>(Checkpoint::open_file(options.retaining_heads, threads));
  }
  return sources;
}

/// Answers documents until the queue has none left; false when the ranks were told to stop before. `coordinator`: on
/// the first rank.
bool answer_documents(const Group& group, Coordinator* coordinator, MemoryReport& memory) {
  std::optional<DocumentResult> result;
  while (true) {
    std::optional<Job> job;
    group.ranks.enter_stage("between documents");
    agree(group.ranks, [&] {
      if (coordinator != nullptr && result) coordinator->commit(std::move(*result));
      result.reset();
      if (coordinator != nullptr) job = coordinator->next();
    });
    job = share_job(group.ranks, std::move(job));
    if (!job) return true;
    try {
      result = answer(group, *job);
      if (result->answers.empty()) continue;
      memory.expect(memory_needed(group, *result->partition));
      if (job->check_dense) memory.expect(check_dense(group, *job, *result));
    } catch (const Interrupted&) {
      agree(group.ranks, [&] {
        if (coordinator != nullptr && result) coordinator->commit(std::move(*result));  // only its check is missing
      });
      return false;
    }
  }
}

}  // namespace

ExitCode run(const RunOptions& asked, const std::string& command_line, MpiCommunicator& world) {
  remember_stop_signals();
  const Placement placement(world, asked.ranks_per_document);
  const RunOptions options = complete(asked, placement);
  const Backend backend = make_backend(options, world, placement.group());
  const auto& device = backend.device;
  Communicator& ranks = backend.communicator(placement.group());  // that share a document
  const RunInfo info = describe_run(options, options_as_json(options), command_line, *device, world);
  const bool is_first = world.rank() == 0;     // of all ranks
  const bool coordinates = ranks.rank() == 0;  // its group
  ModelConfig config;
  WorkQueue queue(world, coordinates);
  device->set_progress([&] {
    queue.progress();
    return ranks.progress() || placement.groups() > 1;  // other groups may want something at any time
  });
  std::unique_ptr<Coordinator> coordinator;
  const auto coordinate = [&] { coordinator = std::make_unique<Coordinator>(options, config, info, placement, queue); };
  agree(world, [&] {
    config = load_config(options.model);
    device->check_heads(config.head_shape());
    check_heads(options.method, config.head_shape(), ranks.size());
    if (is_first) coordinate();
  });
  agree(world, [&] {
    if (coordinates && !is_first) coordinate();  // the first has opened the output
  });
  if (is_first) {
    print_placement(info, placement.groups());
    std::cerr << fmt::format("prompt template: {}\n", coordinator->prompt_template());
  }
  const int threads = choose_threads(options.threads, world);
  MemoryReport memory;
  const Model model = load_on_all_ranks(*device, world, ranks, config, [&] { return open_sources(options, threads); });
  const auto share = placement.groups() > 1 ? std::optional(share_of_memory(world, *device)) : std::nullopt;

  bool completes = false;
  std::optional<CommonError> failure;
  try {
    completes = answer_documents({options, ranks, *device, model, queue, share}, coordinator.get(), memory);
  } catch (const CommonError& error) {
    failure = error;  // of this group: it concerns all
  }
  if (coordinates && !completes) queue.stop();
  world.enter_stage("at the end of the documents");
  agree(world, [&] {
    if (failure) throw *failure;
    if (coordinates) coordinator->close();
  });
  const bool interrupted = world.max(completes ? 0 : 1) != 0;
  const JobTotals totals = gather_totals(placement, coordinates ? coordinator->totals() : JobTotals{});

  auto exit_code = ExitCode::success;
  world.enter_stage("writing the results");
  agree(world, [&] {
    if (is_first) exit_code = interrupted ? coordinator->stop(totals) : coordinator->finish(totals);
  });
  world.broadcast(std::as_writable_bytes(std::span(&exit_code, 1)), 0);
  memory.print(world, weight_bytes(model), info.hosts);
  return exit_code;
}

}  // namespace apb
