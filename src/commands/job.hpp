// One document and its questions as every rank needs them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "comm/communicator.hpp"
#include "context/partition.hpp"

namespace apb {

/// Where the question goes in the anchor of input without a template, by default: behind this many tokens.
inline constexpr int insert_for_tokens = 16;

struct Job {
  DocumentLengths lengths;
  std::uint64_t document = 0;  // hash of the id: tells documents apart for the random compressor
  bool check_dense = false;    // to be answered by the exact method, too
  std::vector<std::int32_t> context;
  std::vector<std::vector<std::int32_t>> queries;  // the first goes through the prefill
};

/// Rank 0's job on all ranks; nothing when it has none left.
std::optional<Job> share_job(Communicator& communicator, std::optional<Job> job);

}  // namespace apb
