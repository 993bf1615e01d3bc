#include "commands/memory_check.hpp"

#include <algorithm>
#include <map>

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

}  // namespace

void check_memory(Communicator& world, const Device& device, const Model& model, const Partition& partition,
                  const RunOptions& options, const std::vector<std::string>& hosts) {
  const std::uint64_t own_available = device.available_memory();
  const auto bytes = world.gather(std::as_bytes(std::span(&own_available, 1)));
  agree(world, [&] {
    if (world.rank() != 0) return;
    const std::span available(reinterpret_cast<const std::uint64_t*>(bytes.data()), hosts.size());
    std::map<std::string, std::vector<int>> ranks_on;
    for (std::size_t rank = 0; rank < hosts.size(); ++rank) ranks_on[hosts[rank]].push_back(static_cast<int>(rank));
    for (const auto& [host, ranks] : ranks_on) {
      std::uint64_t there = available[static_cast<std::size_t>(ranks.front())];
      for (const int rank : ranks) there = std::min(there, available[static_cast<std::size_t>(rank)]);
      const std::size_t needed = needed_by(ranks, device, model, partition, options);
      if (needed <= there) continue;
      fail(
          "{} context tokens need {:.2f} GiB on host {} ({} ranks), {:.2f} GiB are free: about {} tokens would fit; "
          "use more "
          "hosts or a shorter document",
          partition.lengths.context, static_cast<double>(needed) / gibibyte, host, ranks.size(),
          static_cast<double>(there) / gibibyte, longest_that_fits(ranks, there, device, model, partition, options));
    }
  });
}

}  // namespace apb
