#include "commands/plan.hpp"

#include <iostream>
#include <nlohmann/json.hpp>

#include "commands/command_line.hpp"
#include "commands/job.hpp"
#include "commands/preparation.hpp"
#include "context/partition.hpp"
#include "context/work.hpp"
#include "cpu/cpu_device.hpp"
#include "model/shapes.hpp"
#include "phases.hpp"

namespace apb {
namespace {

using Json = nlohmann::ordered_json;

Json blocks_as_json(const Partition& partition) {
  Json blocks = Json::array();
  for (int number = 0; number < partition.block_count(); ++number) {
    const Block& block = partition.blocks[static_cast<std::size_t>(number)];
    blocks.push_back({{"begin", block.begin},
                      {"end", block.end},
                      {"rank", block.rank},
                      {"passing", block.passing},
                      {"seen_before", seen_before(partition, number)}});
  }
  return blocks;
}

Json rank_as_json(const Device& device, const ModelConfig& config, const Partition& partition, int rank) {
  std::int64_t rows = 0;
  for (const int number : partition.blocks_of(rank)) {
    rows += partition.blocks[static_cast<std::size_t>(number)].length();
  }
  const AnchorSlice slice = partition.anchor_slice(rank);
  const auto work = prefill_work(config, partition, rank, size_of(device.compute_type()));
  Json flops;
  for (std::size_t phase = 0; phase < work.size(); ++phase) {
    if (work[phase].flops > 0) flops[std::string(phase_names[phase])] = work[phase].flops;
  }
  return {{"rank", rank},
          {"context_rows", rows},
          {"anchor_rows", slice.length()},
          {"pairs", prefill_pairs(config, partition, rank)},
          {"flops", flops},
          {"bytes_sent", prefill_bytes_sent(device, config, partition)}};
}

}  // namespace

ExitCode plan(const PlanOptions& options) {
  ModelConfig config = options.shape.empty() ? load_config(options.model) : shape_named(options.shape);
  config.layers = options.layers.value_or(config.layers);
  check_blocks(options.method, options.ranks);
  check_heads(options.method, config.head_shape(), options.ranks);
  const auto device = make_cpu_device({});
  const DocumentLengths lengths{.context = options.context_length,
                                .query = options.query_length,
                                .prefix = insert_for_tokens,
                                .max_new_tokens = 1};
  const Partition partition = make_partition(lengths, options.method, options.ranks, device->tile());
  Json json = {{"method", name_of(partition.method)},
               {"context_length", lengths.context},
               {"query_length", lengths.query},
               {"ranks", Json::array()},
               {"anchor_length", partition.anchor_length},
               {"anchor_context_tokens", partition.anchor_context_tokens()},
               {"anchor_placement", name_of(partition.anchor_placement)},
               {"passing_length", partition.passing_length},
               {"blocks", blocks_as_json(partition)},
               {"full_pairs", full_prefill_pairs(config, lengths)}};
  for (int rank = 0; rank < options.ranks; ++rank) {
    json["ranks"].push_back(rank_as_json(*device, config, partition, rank));
  }
  std::cout << json.dump(2) << std::endl;
  if (!std::cout) fail("standard output: cannot be written");
  return ExitCode::success;
}

}  // namespace apb
