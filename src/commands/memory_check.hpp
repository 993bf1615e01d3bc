// Refusing a document that would not fit into memory, before any of it is taken.
#pragma once

#include "comm/communicator.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// Collective. Throws Error on all ranks when those that share a memory together need more than it has: how much, how
/// much is there, and how many context tokens would fit.
void check_memory(Communicator& world, const Device& device, const Model& model, const Partition& partition,
                  const RunOptions& options);

}  // namespace apb
