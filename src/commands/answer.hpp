// A document's way through the ranks that share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "comm/communicator.hpp"
#include "comm/work_queue.hpp"
#include "commands/coordinator.hpp"
#include "commands/job.hpp"
#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// What a group of ranks works with.
struct Group {
  const RunOptions& options;
  Communicator& ranks;  // that share a document
  Device& device;
  const Model& model;
  WorkQueue& queue;
  std::optional<std::uint64_t> memory_share;  // bytes of a rank's, where other groups compute beside this one
};

/// The answers to the document's questions. What fails it fails it on all of the group's ranks; when one is told to
/// stop, all throw Interrupted.
DocumentResult answer(const Group& group, const Job& job);

/// Answers by the exact method, too, what was answered, and takes the difference to `result` on the group's first rank.
/// Gives what the exact method needed of this rank's memory, in bytes. Throws Interrupted as answer() does.
std::size_t check_dense(const Group& group, const Job& job, DocumentResult& result);

/// Bytes that this rank needs for a document.
std::size_t memory_needed(const Group& group, const Partition& partition);

}  // namespace apb
