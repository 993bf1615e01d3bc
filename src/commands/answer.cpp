#include "commands/answer.hpp"

#include <chrono>
#include <memory>
#include <vector>

#include "commands/dense_check.hpp"
#include "commands/memory_check.hpp"
#include "commands/preparation.hpp"
#include "commands/stop_signal.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/memory.hpp"
#include "context/partition.hpp"
#include "context/work.hpp"

namespace apb {
namespace {

/// [layers, blocks, kv_heads, passing_length] on rank 0, from each rank's own blocks.
SelectionRecord gather_selection(Communicator& group, Forward& forward, const Partition& partition,
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
  const auto bytes = group.gather(std::as_bytes(std::span(own)));
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

}  // namespace

DocumentResult answer(const Group& group, const Job& job) {
  const RunOptions& options = group.options;
  Communicator& ranks = group.ranks;
  Device& device = group.device;
  const Model& model = group.model;
  DocumentResult result;
  std::unique_ptr<Forward> forward;
  const auto told_to_stop = [&queue = group.queue] {
    queue.progress();
    return stop_requested() || queue.stopped();
  };
  try {
    agree(ranks, [&] { result.partition = make_partition(job.lengths, options.method, ranks.size(), device.tile()); });
    check_memory(ranks, device, model, *result.partition, options, group.memory_share);
    agree(ranks, [&] {
      forward = std::make_unique<Forward>(Forward::Setup{.device = device,
                                                         .communicator = ranks,
                                                         .model = model,
                                                         .partition = *result.partition,
                                                         .options = options.method,
                                                         .document = job.document,
                                                         .keep_selection = options.save_selection,
                                                         .overlap = options.overlap == Overlap::on,
                                                         .stop_requested = told_to_stop});
    });
  } catch (const Error& error) {
    result.error = error.what();
    return result;
  }
  const int max_new_tokens = job.lengths.max_new_tokens;
  const bool keep_logits = options.save_logits || job.check_dense;
  result.answers.push_back(
      generate(device, ranks, model, *forward, job.context, job.queries.front(), max_new_tokens, keep_logits));
  for (std::size_t question = 1; question < job.queries.size(); ++question) {
    result.answers.push_back(
        generate_further(device, ranks, model, *forward, job.queries[question], max_new_tokens, keep_logits));
  }
  const PhaseSeconds& phases = result.answers.front().phase_seconds;
  result.phase_seconds = gather_phases(ranks, phases, result.partition->ranks_used());
  result.counts = count_prefill(device, model.config, *result.partition);
  result.message_seconds =
      gather_seconds(ranks, result.answers.front().message_seconds, result.partition->ranks_used());
  if (options.save_selection) result.selection = gather_selection(ranks, *forward, *result.partition, model.config);
  return result;
}

std::size_t check_dense(const Group& group, const Job& job, DocumentResult& result) {
  const auto start = std::chrono::steady_clock::now();
  const RunOptions exact = exact_options(group.options);
  const Group exact_group{exact, group.ranks, group.device, group.model, group.queue, group.memory_share};
  const DocumentResult dense = answer(exact_group, exact_job(job, result.answers));
  result.check_error = dense.error;
  if (!dense.error.empty()) return 0;
  try {
    for (std::size_t question = 0; group.ranks.rank() == 0 && question < dense.answers.size(); ++question) {
      result.drifts.push_back(drift_between(result.answers[question], dense.answers[question]));
    }
  } catch (const Error& error) {
    result.check_error = error.what();
    result.drifts.clear();
  }
  result.check_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return memory_needed(exact_group, *dense.partition);
}

std::size_t memory_needed(const Group& group, const Partition& partition) {
  return memory_needed(group.device, group.model, partition, group.options.method, group.ranks.rank(),
                       group.options.save_selection, group.options.overlap == Overlap::on);
}

}  // namespace apb
