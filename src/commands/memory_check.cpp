#include "commands/memory_check.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <sstream>

#include "comm/mpi_communicator.hpp"
#include "context/memory.hpp"
#include "error.hpp"

namespace apb {
namespace {

constexpr double gibibyte = 1024.0 * 1024.0 * 1024.0;

/// Bytes that the given ranks need together.
std::size_t needed_by(const std::vector<int>& ranks, const Device& device, const Model& model,
                      const Partition& partition, const RunOptions& options) {
  std::size_t bytes = 0;
  for (const int rank : ranks) {
    bytes += memory_needed(device, model, partition, options.method, rank, options.save_selection,
                           options.overlap == Overlap::on);
  }
  return bytes;
}

/// The longest context, by bisection, whose ranks on this host need no more than `available`.
std::int64_t longest_that_fits(const std::vector<int>& ranks, std::size_t available, const Device& device,
                               const Model& model, const Partition& partition, const RunOptions& options) {
  DocumentLengths lengths = partition.lengths;
  std::int64_t fits = 0;
  std::int64_t too_long = lengths.context;
  while (too_long - fits > 1) {
    lengths.context = (fits + too_long) / 2;
    bool fit = false;
    try {
      const Partition shorter = make_partition(lengths, options.method, partition.ranks, device.tile());
      fit = needed_by(ranks, device, model, shorter, options) <= available;
    } catch (const Error&) {
      fit = true;  // too short for the lengths asked for: look at longer ones
    }
    (fit ? fits : too_long) = lengths.context;
  }
  return fits;
}

/// Of the memory that this rank computes in; ranks that share it have the same.
std::string memory_name(const Device& device) {
  const std::string place = device.memory_place();
  return fmt::format("{}{}host {}", place, place.empty() ? "" : " of ", host_name());
}

/// What a rank sees of its memory, in bytes.
struct Room {
  std::uint64_t available;
  std::optional<std::uint64_t> share;
};

/// For ranks in the same memory, together.
std::uint64_t room_for(const std::vector<int>& ranks, std::span<const Room> rooms) {
  std::uint64_t available = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t shares = 0;
  for (const int rank : ranks) {
    const Room& room = rooms[static_cast<std::size_t>(rank)];
    available = std::min(available, room.available);
    shares += room.share.value_or(room.available);
  }
  return std::min(available, shares);
}

}  // namespace

std::uint64_t share_of_memory(Communicator& world, const Device& device) {
  std::string memories = fmt::format("{}", fmt::join(gather_texts(world, memory_name(device)), "\n"));
  broadcast_text(world, memories, 0);
  const std::string own = memory_name(device);
  std::istringstream lines(memories);
  std::uint64_t ranks = 0;
  for (std::string memory; std::getline(lines, memory);) ranks += memory == own ? 1 : 0;
  return device.available_memory() / ranks;
}

void check_memory(Communicator& group, const Device& device, const Model& model, const Partition& partition,
                  const RunOptions& options, std::optional<std::uint64_t> share) {
  const auto memories = gather_texts(group, memory_name(device));
  const Room own{.available = device.available_memory(), .share = share};
  const auto bytes = group.gather(std::as_bytes(std::span(&own, 1)));
  agree(group, [&] {
    if (group.rank() != 0) return;
    const std::span rooms(reinterpret_cast<const Room*>(bytes.data()), memories.size());
    std::map<std::string, std::vector<int>> ranks_in;
    for (std::size_t rank = 0; rank < memories.size(); ++rank) {
      ranks_in[memories[rank]].push_back(static_cast<int>(rank));
    }
    for (const auto& [memory, ranks] : ranks_in) {
      const std::uint64_t there = room_for(ranks, rooms);
      const std::size_t needed = needed_by(ranks, device, model, partition, options);
      if (needed <= there) continue;
      fail(
          "{} context tokens need {:.2f} GiB on {} ({} rank{}), {:.2f} GiB are free: about {} tokens would fit; "
          "use more hosts or a shorter document",
          partition.lengths.context, static_cast<double>(needed) / gibibyte, memory, ranks.size(),
          ranks.size() == 1 ? "" : "s", static_cast<double>(there) / gibibyte,
          longest_that_fits(ranks, there, device, model, partition, options));
    }
  });
}

}  // namespace apb
