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

/// The name of the memory that this rank computes in; ranks that share it have the same.
std::string memory_name(const Device& device);

/// Throws Error on all ranks when those that share a memory together need more than it has: how much, how much is
/// there, and how many context tokens would fit. `memories`: the memory_name of all ranks, on rank 0.
void check_memory(Communicator& world, const Device& device, const Model& model, const Partition& partition,
                  const RunOptions& options, const std::vector<std::string>& memories);

}  // namespace apb
