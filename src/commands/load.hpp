// Loading a model on all ranks.
#pragma once

#include <functional>
#include <memory>

#include "comm/communicator.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "model/weight_source.hpp"

namespace apb {

struct ModelSources {
  std::unique_ptr<const WeightSource> weights{};
  std::unique_ptr<const WeightSource> retaining_heads{};  // or nothing
};

/// The model with its weights on the device, the head on the first rank of each group; `open` is called on every rank.
/// Throws on all what one of them throws. Rank 0 prints how long it took.
Model load_on_all_ranks(Device& device, Communicator& world, Communicator& group, const ModelConfig& config,
                        const std::function<ModelSources()>& open);

}  // namespace apb
