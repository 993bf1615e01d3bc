#include "commands/run.hpp"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <optional>

#include "comm/mpi_communicator.hpp"
#include "commands/command_line.hpp"
#include "commands/coordinator.hpp"
#include "commands/dense_check.hpp"
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

std::string divisors_of(int number) {
  std::vector<int> divisors;
  for (int divisor = 1; divisor <= number; ++divisor) {
    if (number % divisor == 0) divisors.push_back(divisor);
  }
  return fmt::format("{}", fmt::join(divisors, ", "));
}

bool depends_on_blocks(Method method) { return method == Method::apb || method == Method::star; }

/// Two blocks per rank (star: one), but a resumed run keeps those of the ranks that its output began with: answers
/// depend on them.
int choose_automatic_blocks(const RunOptions& options, int ranks) {
  const auto earlier = options.resume && !options.output.empty() ? find_run(options.output) : std::nullopt;
  const int blocks = (earlier ? automatic_blocks_in(earlier->options) : std::nullopt)
                         .value_or(options.method.method == Method::star ? ranks : 2 * ranks);
  if (blocks % ranks != 0) {
    fail_usage("{} was begun with {} blocks, which is no multiple of the {} ranks: resume it on {} ranks",
               options.output.string(), blocks, ranks, divisors_of(blocks));
  }
  return blocks;
}

/// What all ranks do, with what was left to choose before the first document filled in.
RunOptions complete(RunOptions options, Communicator& world) {
  int blocks = 0;
  agree(world, [&] {
    check_blocks(options.method, world.size());
    const bool chooses = depends_on_blocks(options.method.method) && !options.method.blocks;
    if (chooses && world.rank() == 0) blocks = choose_automatic_blocks(options, world.size());
  });
  world.broadcast(std::as_writable_bytes(std::span(&blocks, 1)), 0);
  if (blocks > 0) options.method.automatic_blocks = blocks;
  options.overlap = choose_overlap(options.overlap, world);
  return options;
}

ModelSources open_sources(const RunOptions& options, int threads) {
  ModelSources sources{.weights = std::make_unique<Checkpoint>(Checkpoint::open(options.model, threads))};
  if (!options.retaining_heads.empty()) {
    sources.retaining_heads = std::make_unique<Checkpoint>(Checkpoint::open_file(options.retaining_heads, threads));
  }
  return sources;
}

/// [layers, blocks, kv_heads, passing_length] on rank 0, from each rank's own blocks.
SelectionRecord gather_selection(Communicator& world, Forward& forward, const Partition& partition,
                                 const ModelConfig& config) {
  SelectionRecord record{.layers = config.layers,
                         .blocks = partition.block_count(),
                         .kv_heads = config.kv_heads,
                         .p = partition.passing_length};
  const std::size_t block_entries = static_cast<std::size_t>(config.kv_heads) * static_cast<std::size_t>(record.p);
  const std::size_t share =
      static_cast<std::size_t>(config.layers) * static_cast<std::size_t>(partition.blocks_per_rank()) * block_entries;
  std::vector<std::int32_t> own = forward.selection();
  own.resize(share, -1);
  const auto bytes = world.gather(std::as_bytes(std::span(own)));
  if (bytes.empty()) return record;
  const auto* all = reinterpret_cast<const std::int32_t*>(bytes.data());
  for (int layer = 0; layer < config.layers; ++layer) {
    for (const Block& block : partition.blocks) {
      const auto own_blocks = partition.blocks_of(block.rank).size();
      const auto* first =
          all + static_cast<std::size_t>(block.rank) * share +
          (static_cast<std::size_t>(layer) * own_blocks + static_cast<std::size_t>(block.index)) * block_entries;
      record.positions.insert(record.positions.end(), first, first + block_entries);
    }
  }
  return record;
}

/// A document's way through the ranks. What fails it fails it on all of them; when one is told to stop, all throw
/// Interrupted.
DocumentResult answer(const RunOptions& options, const Job& job, Device& device, const Model& model,
                      Communicator& world) {
  DocumentResult result;
  std::unique_ptr<Forward> forward;
  try {
    agree(world, [&] { result.partition = make_partition(job.lengths, options.method, world.size(), device.tile()); });
    check_memory(world, device, model, *result.partition, options);
    agree(world, [&] {
      forward = std::make_unique<Forward>(Forward::Setup{.device = device,
                                                         .communicator = world,
                                                         .model = model,
                                                         .partition = *result.partition,
                                                         .options = options.method,
                                                         .document = job.document,
                                                         .keep_selection = options.save_selection,
                                                         .overlap = options.overlap == Overlap::on,
                                                         .stop_requested = stop_requested});
    });
  } catch (const Error& error) {
    result.error = error.what();
    return result;
  }
  const int max_new_tokens = job.lengths.max_new_tokens;
  const bool keep_logits = options.save_logits || job.check_dense;
  result.answers.push_back(
      generate(device, world, model, *forward, job.context, job.queries.front(), max_new_tokens, keep_logits));
  for (std::size_t question = 1; question < job.queries.size(); ++question) {
    result.answers.push_back(
        generate_further(device, world, model, *forward, job.queries[question], max_new_tokens, keep_logits));
  }
  const PhaseSeconds& phases = result.answers.front().phase_seconds;
  result.phase_seconds = gather_phases(world, phases, result.partition->ranks_used());
  result.counts = count_prefill(device, model.config, *result.partition);
  result.message_seconds =
      gather_seconds(world, result.answers.front().message_seconds, result.partition->ranks_used());
  if (options.save_selection) result.selection = gather_selection(world, *forward, *result.partition, model.config);
  return result;
}

/// Answers by the exact method, too, what was answered, and takes the difference to `result` on rank 0. Gives what the
/// exact method needed of this rank's memory, in bytes. Throws Interrupted on all ranks when one is told to stop.
std::size_t check_dense(const RunOptions& options, const Job& job, Device& device, const Model& model,
                        Communicator& world, DocumentResult& result) {
  const auto start = std::chrono::steady_clock::now();
  const RunOptions exact = exact_options(options);
  const DocumentResult dense = answer(exact, exact_job(job, result.answers), device, model, world);
  result.check_error = dense.error;
  if (!dense.error.empty()) return 0;
  try {
    for (std::size_t question = 0; world.rank() == 0 && question < dense.answers.size(); ++question) {
      result.drifts.push_back(drift_between(result.answers[question], dense.answers[question]));
    }
  } catch (const Error& error) {
    result.check_error = error.what();
    result.drifts.clear();
  }
  result.check_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return memory_needed(device, model, *dense.partition, exact.method, world.rank(), false,
                       options.overlap == Overlap::on);
}

}  // namespace

ExitCode run(const RunOptions& asked, const std::string& command_line, Communicator& host) {
  remember_stop_signals();
  const bool coordinates = host.rank() == 0;
  const RunOptions options = complete(asked, host);
  const Backend backend = make_backend(options, host);
  const auto& device = backend.device;
  Communicator& world = backend.communicator(host);
  const RunInfo info = describe_run(options, options_as_json(options), command_line, *device, world);
  ModelConfig config;
  std::unique_ptr<Coordinator> coordinator;
  agree(world, [&] {
    config = load_config(options.model);
    device->check_heads(config.head_shape());
    check_heads(options.method, config.head_shape(), world.size());
    if (coordinates) coordinator = std::make_unique<Coordinator>(options, config, info);
  });
  if (coordinates) {
    print_placement(info);
    std::cerr << fmt::format("prompt template: {}\n", coordinator->prompt_template());
  }
  const int threads = choose_threads(options.threads, world);
  MemoryReport memory;
  const Model model = load_on_all_ranks(*device, world, config, [&] { return open_sources(options, threads); });

  std::optional<DocumentResult> result;
  bool interrupted = false;
  while (!interrupted) {
    std::optional<Job> job;
    world.enter_stage("between documents");
    agree(world, [&] {
      if (coordinates && result) coordinator->commit(std::move(*result));
      result.reset();
      if (coordinates) job = coordinator->next();
    });
    job = share_job(world, std::move(job));
    if (!job) break;
    try {
      result = answer(options, *job, *device, model, world);
      if (!result->answers.empty()) {
        memory.expect(memory_needed(*device, model, *result->partition, options.method, world.rank(),
                                    options.save_selection, options.overlap == Overlap::on));
        if (job->check_dense) memory.expect(check_dense(options, *job, *device, model, world, *result));
      }
    } catch (const Interrupted&) {
      interrupted = true;
    }
  }

  auto exit_code = ExitCode::success;
  world.enter_stage("writing the results");
  agree(world, [&] {
    if (coordinates && result) coordinator->commit(std::move(*result));  // answered, but its check was interrupted
    if (coordinates) exit_code = interrupted ? coordinator->stop() : coordinator->finish();
  });
  world.broadcast(std::as_writable_bytes(std::span(&exit_code, 1)), 0);
  memory.print(world, weight_bytes(model), info.hosts);
  return exit_code;
}

}  // namespace apb
