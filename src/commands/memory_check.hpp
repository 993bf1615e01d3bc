// Refusing a document that would not fit into memory, before any of it is taken.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// Throws Error on all ranks when a host's ranks together need more than it has: how much, how much is there, and how
/// many context tokens would fit. `hosts` of all ranks, on rank 0.
void check_memory(Communicator& world, const Device& device, const Model& model, const Partition& partition,
                  const RunOptions& options, const std::vector<std::string>& hosts);

}  // namespace apb
