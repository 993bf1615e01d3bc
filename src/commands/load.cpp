#include "commands/load.hpp"

#include <fmt/format.h>

#include <chrono>
#include <iostream>

namespace apb {

Model load_on_all_ranks(Device& device, Communicator& world, Communicator& group, const ModelConfig& config,
                        const std::function<ModelSources()>& open) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  world.enter_stage("loading the model");
  // In steps, since ranks of a node load together: what stops one stops all of them before the next.
  ModelSources sources;
  agree(world, [&] { sources = open(); });
  Model model;
  const bool share_head = group.size() < world.size() && device.memory_place().empty();  // in one memory
  agree(world, [&] { model = load_model(device, config, *sources.weights, group.rank() == 0, share_head); });
  agree(world, [&] {
    if (sources.retaining_heads) model.retaining_heads = load_retaining_heads(device, config, *sources.retaining_heads);
  });
  device.synchronize();
  if (world.rank() == 0) {
    const std::chrono::duration<double> seconds = Clock::now() - start;
    const double gigabytes = static_cast<double>(weight_bytes(model)) / 1e9;
    std::cerr << fmt::format("model loaded in {:.2f} s, {:.2f} GB, {:.1f} GB/s\n", seconds.count(), gigabytes,
                             gigabytes / seconds.count());
  }
  return model;
}

}  // namespace apb
