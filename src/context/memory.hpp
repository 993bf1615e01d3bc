// How much device memory a document takes, known from its partition before anything is allocated.
#pragma once

#include <cstddef>

#include "context/partition.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// Bytes that Forward takes on a rank, weights not counted.
std::size_t memory_needed(const Device& device, const Model& model, const Partition& partition,
                          const MethodOptions& options, int rank, bool keep_selection, bool overlap);

}  // namespace apb
