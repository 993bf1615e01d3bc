// One question about one document as every rank needs it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "comm/communicator.hpp"
#include "context/partition.hpp"

namespace apb {

struct Job {
  DocumentLengths lengths;
  std::uint64_t document = 0;  // hash of the id: tells documents apart for the random compressor
  std::vector<std::int32_t> context;
  std::vector<std::int32_t> query;
};

/// Rank 0's job on all ranks; nothing when it has none left.
std::optional<Job> share_job(Communicator& communicator, std::optional<Job> job);

}  // namespace apb
