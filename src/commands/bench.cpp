#include "commands/bench.hpp"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "comm/emulated_communicator.hpp"
#include "commands/command_line.hpp"
#include "commands/job.hpp"
#include "commands/load.hpp"
#include "commands/make_device.hpp"
#include "commands/memory_check.hpp"
#include "commands/preparation.hpp"
#include "commands/resident_memory.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/memory.hpp"
#include "context/partition.hpp"
#include "context/work.hpp"
#include "device/clock.hpp"
#include "model/random_weights.hpp"
#include "model/safetensors.hpp"
#include "model/shapes.hpp"
#include "output/bench_results.hpp"

namespace apb {
namespace {

constexpr std::uint64_t weights_seed = 1;

/// What a case is measured with.
struct Bench {
  const BenchOptions& options;  // nothing left to choose
  Device& device;
  const Model& model;
  Communicator& world;
  const RunInfo& info;

  bool overlap() const { return options.run.overlap == Overlap::on; }
};

ModelConfig choose_config(const BenchOptions& options) {
  ModelConfig config = options.shape.empty() ? load_config(options.run.model) : shape_named(options.shape);
  if (options.layers && *options.layers > config.layers) {
    fail_usage("--layers {} are more than the model's {}", *options.layers, config.layers);
  }
  config.layers = options.layers.value_or(config.layers);
  config.eos_tokens.clear();  // decoding goes on
  return config;
}

ModelSources open_sources(const BenchOptions& options, int threads) {
  using Source = std::unique_ptr<const WeightSource>;
  const auto weights = [&]() -> Source {
    if (!options.shape.empty()) return std::make_unique<RandomWeights>(weights_seed, threads);
    return std::make_unique<Checkpoint>(Checkpoint::open(options.run.model, threads));
  };
  ModelSources sources{.weights = weights()};
  if (!options.run.retaining_heads.empty()) {
    sources.retaining_heads = std::make_unique<Checkpoint>(Checkpoint::open_file(options.run.retaining_heads, threads));
  } else if (!options.shape.empty() && options.run.method.compressor == CompressorKind::retaining_heads) {
    sources.retaining_heads = weights();
  }
  return sources;
}

/// Before any work, so that it is not lost in the end.
void check_output(const RunOptions& options) {
  if (options.output.empty()) return;
  const auto folder = std::filesystem::absolute(options.output).parent_path();
  if (!std::filesystem::is_directory(folder)) fail("{}: {} is no folder", options.output.string(), folder.string());
  if (options.overwrite || !std::filesystem::exists(options.output)) return;
  fail("{}: exists already; give another --output, or --overwrite", options.output.string());
}

/// Ranks of one process count as sharing it equally.
std::int64_t own_part(const BenchOptions& options, std::int64_t bytes_of_process) {
  return bytes_of_process / std::max(1, options.emulate_ranks);
}

/// The same on every rank.
std::vector<std::int32_t> random_tokens(std::int64_t count, int vocabulary) {
  std::mt19937 random(static_cast<std::mt19937::result_type>(count));
  std::uniform_int_distribution<std::int32_t> token(0, vocabulary - 1);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  std::generate(tokens.begin(), tokens.end(), [&] { return token(random); });
  return tokens;
}

/// One value or row of values of each rank, on rank 0.
template <typename Value>
std::vector<Value> gather_values(Communicator& world, std::span<const Value> own) {
  const auto bytes = world.gather(std::as_bytes(own));
  const auto* const values = reinterpret_cast<const Value*>(bytes.data());
  return {values, values + bytes.size() / sizeof(Value)};
}
template <typename Value>
std::vector<Value> gather_value(Communicator& world, const Value& own) {
  return gather_values(world, std::span(&own, 1));
}

Partition partition_for(const Bench& bench, int context) {
  const DocumentLengths lengths{.context = context,
                                .query = bench.options.query_length,
                                .prefix = insert_for_tokens,
                                .max_new_tokens = bench.options.decode_tokens + 1};
  std::optional<Partition> partition;
  agree(bench.world, [&] {
    partition = make_partition(lengths, bench.options.run.method, bench.world.size(), bench.device.tile());
  });
  check_memory(bench.world, bench.device, bench.model, *partition, bench.options.run);
  return *partition;
}

double total_bytes(const PhaseWork& work) {
  double bytes = 0.0;
  for (const Work& phase : work) bytes += phase.bytes;
  return bytes;
}

/// Reads as much as decoding the longest context does: the weights and the cache.
BenchPeaks measure_peaks(const Bench& bench, const Partition& longest) {
  bench.world.enter_stage("measuring the peaks");
  const auto bytes = static_cast<std::size_t>(total_bytes(
      decode_work(bench.model.config, longest, bench.world.rank(), 1, size_of(bench.device.compute_type()))));
  Peaks own;
  agree(bench.world, [&] { own = bench.device.measure_peaks(bytes); });
  return {.flops_per_second = gather_value(bench.world, own.flops_per_second),
          .bytes_per_second = gather_value(bench.world, own.bytes_per_second),
          .clock_hertz = gather_value(bench.world, own.clock_hertz),
          .instructions = gather_texts(bench.world, own.instructions)};
}

void append(std::vector<double>& all, const std::vector<double>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

/// One document from an empty memory to its last token, as in a run. Repetitions that do not count are left out of
/// `result`.
void repeat(const Bench& bench, const Partition& partition, bool counts, BenchCase& result) {
  const auto context = random_tokens(partition.lengths.context, bench.model.config.vocabulary);
  const auto query = random_tokens(partition.lengths.query, bench.model.config.vocabulary);
  std::unique_ptr<Forward> forward;
  agree(bench.world, [&] {
    forward = std::make_unique<Forward>(Forward::Setup{.device = bench.device,
                                                       .communicator = bench.world,
                                                       .model = bench.model,
                                                       .partition = partition,
                                                       .options = bench.options.run.method,
                                                       .overlap = bench.overlap()});
  });
  const Answer answer = generate(bench.device, bench.world, bench.model, *forward, context, query,
                                 partition.lengths.max_new_tokens, false);
  const int ranks = bench.world.size();
  const auto phases = gather_phases(bench.world, answer.phase_seconds, ranks);
  const auto messages = gather_seconds(bench.world, answer.message_seconds, ranks);
  const auto decode_phases = gather_phases(bench.world, answer.decode_phase_seconds, ranks);
  if (!counts) return;
  result.prefill_seconds.push_back(answer.prefill_seconds);
  result.decode_seconds.push_back(answer.decode_seconds);
  append(result.phase_seconds, phases);
  append(result.message_seconds, messages);
  append(result.decode_phase_seconds, decode_phases);
}

void count_work(const Bench& bench, const Partition& partition, BenchCase& result) {
  const ModelConfig& config = bench.model.config;
  const std::size_t element = size_of(bench.device.compute_type());
  result.prefill_flops = prefill_flops(config, partition);
  for (int rank = 0; rank < bench.world.size(); ++rank) {
    for (const Work& phase : prefill_work(config, partition, rank, element)) {
      result.flops.push_back(phase.flops);
      result.bytes.push_back(phase.bytes);
    }
    for (const Work& phase : decode_work(config, partition, rank, bench.options.decode_tokens, element)) {
      result.decode_flops.push_back(phase.flops);
      result.decode_bytes.push_back(phase.bytes);
    }
  }
  PrefillCounts counts = count_prefill(bench.device, config, partition);
  const auto ranks = static_cast<std::size_t>(bench.world.size());
  counts.pairs.resize(ranks);
  counts.bytes_sent.resize(ranks);
  result.pairs = std::move(counts.pairs);
  result.bytes_sent = std::move(counts.bytes_sent);
  result.full_pairs = counts.full_pairs;
}

BenchCase measure(const Bench& bench, const Partition& partition) {
  BenchCase result{.context_length = partition.lengths.context,
                   .method = name_of(partition.method),
                   .blocks = partition.block_count(),
                   .anchor_length = partition.anchor_length,
                   .passing_length = partition.passing_length};
  count_work(bench, partition, result);
  reset_peak_resident_memory();
  for (int repetition = -bench.options.warmup; repetition < bench.options.repeats; ++repetition) {
    repeat(bench, partition, repetition >= 0, result);
  }
  const auto needed = static_cast<std::int64_t>(memory_needed(
      bench.device, bench.model, partition, bench.options.run.method, bench.world.rank(), false, bench.overlap()));
  result.needed_bytes = gather_value(bench.world, needed);
  result.peak_bytes = gather_value(bench.world, own_part(bench.options, peak_resident_memory()));
  return result;
}

void print_model(const BenchOptions& options, const ModelConfig& config, const RunInfo& info) {
  std::cout << fmt::format("{}{}: {} layers, {}, {} {}rank{}; {} question tokens, median of {} after {} warm-up\n",
                           options.shape.empty() ? options.run.model.string() : options.shape,
                           options.shape.empty() ? "" : " (random weights)", config.layers, options.run.dtype,
                           info.ranks, options.emulate_ranks > 0 ? "emulated " : "", info.ranks == 1 ? "" : "s",
                           options.query_length, options.repeats, options.warmup);
  if (options.emulate_ranks > 0) {
    std::cout << "emulated: ranks take turns on this machine; times are the critical path, without the link's\n";
  }
}

/// What each rank does.
void bench_on(const BenchOptions& options, const std::string& command_line, Communicator& host) {
  const bool coordinates = host.rank() == 0;
  ModelConfig config;
  agree(host, [&] {
    check_blocks(options.run.method, host.size());
    if (coordinates) check_output(options.run);
    config = choose_config(options);
    check_heads(options.run.method, config.head_shape(), host.size());
  });
  const Backend backend = make_backend(options.run, host, host);
  const auto& device = backend.device;
  Communicator& world = backend.communicator(host);
  agree(world, [&] { device->check_heads(config.head_shape()); });
  const int threads = choose_threads(options.run.threads, world);
  BenchResults results{.info = describe_run(options.run, options_as_json(options), command_line, *device, world),
                       .query_length = options.query_length,
                       .decode_tokens = options.decode_tokens,
                       .warmup = options.warmup,
                       .repeats = options.repeats,
                       .emulated_ranks = options.emulate_ranks};
  if (coordinates) {
    print_placement(results.info);
    print_model(options, config, results.info);
  }
  const Model model = load_on_all_ranks(*device, world, world, config, [&] { return open_sources(options, threads); });
  results.loaded_bytes = gather_value(world, own_part(options, resident_memory()));

  BenchOptions complete = options;
  complete.run.overlap = choose_overlap(options.run.overlap, world);
  const Bench setup{complete, *device, model, world, results.info};
  std::vector<Partition> partitions;  // all before any work, so that what cannot be done is known at once
  for (const int length : options.lengths) partitions.push_back(partition_for(setup, length));
  const auto longest = std::max_element(partitions.begin(), partitions.end(), [](const auto& a, const auto& b) {
    return a.lengths.context < b.lengths.context;
  });
  if (options.roofline) results.peaks = measure_peaks(setup, *longest);
  if (coordinates && options.roofline) print_peaks(std::cout, results.peaks);
  if (coordinates && !options.roofline) print_bench_heading(std::cout);
  for (const Partition& partition : partitions) {
    results.cases.push_back(measure(setup, partition));
    if (coordinates && options.roofline) print_bench_heading(std::cout);
    if (coordinates) print_bench_case(std::cout, results, results.cases.back());
    if (coordinates && options.roofline) print_roofline(std::cout, results, results.cases.back());
  }
  world.enter_stage("writing the results");
  agree(world, [&] {
    if (coordinates && !options.run.output.empty()) write_bench(options.run.output, results);
  });
}

}  // namespace

ExitCode bench(const BenchOptions& options, const std::string& command_line, Communicator& host) {
  if (options.emulate_ranks == 0) {
    bench_on(options, command_line, host);
    return ExitCode::success;
  }
  agree(host, [&] {
    if (host.size() > 1) fail_usage("--emulate-ranks takes one process, these are {}: leave mpirun out", host.size());
  });
  BenchOptions emulated = options;
  emulated.run.device = "cpu";
  emulated.run.threads = std::max(1, options.run.threads);
  // A rank of several threads is timed by the wall's clock, since its first thread alone does not run all the time.
  run_emulated_ranks(
      options.emulate_ranks, [&](Communicator& rank) { bench_on(emulated, command_line, rank); },
      emulated.run.threads == 1 ? thread_seconds : steady_seconds);
  return ExitCode::success;
}

}  // namespace apb
