// Refusing a document that would not fit into memory, before any of it is taken.
#pragma once

#include <cstdint>
#include <optional>

#include "comm/communicator.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// Collective: bytes of what is free now in the memory that this rank computes in, divided among the ranks that do.
std::uint64_t share_of_memory(Communicator& world, const Device& device);

/// Collective over the ranks that share a document. Throws Error on all of them when those that share a memory together
/// need more than it has: how much, how much is there, and how many context tokens would fit. `share`: the most that a
/// rank may take where others compute beside these; nothing where none do.
void check_memory(Communicator& group, const Device& device, const Model& model, const Partition& partition,
                  const RunOptions& options, std::optional<std::uint64_t> share = std::nullopt);

}  // namespace apb
