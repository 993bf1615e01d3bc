#include "commands/memory_report.hpp"

#include <fmt/format.h>

#include <iostream>
#include <map>
#include <span>

#include "commands/resident_memory.hpp"

namespace apb {
namespace {

/// Bytes, of one rank or of all on a host.
struct Taken {
  std::int64_t peak = 0;       // of what is shared, each rank's part
  std::int64_t predicted = 0;  // without the weights
  std::int64_t weights = 0;
};

double gigabytes(std::int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace

MemoryReport::MemoryReport() : before_(resident_memory()) {}

void MemoryReport::print(Communicator& world, std::size_t weights, const std::vector<std::string>& hosts) const {
  const Taken own{
      .peak = peak_resident_memory(), .predicted = before_ + needed_, .weights = static_cast<std::int64_t>(weights)};
  const auto bytes = world.gather(std::as_bytes(std::span(&own, 1)));
  if (world.rank() != 0) return;
  const std::span ranks(reinterpret_cast<const Taken*>(bytes.data()), hosts.size());
  std::map<std::string, Taken> on_host;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    Taken& host = on_host[hosts[rank]];
    host.peak += ranks[rank].peak;
    host.predicted += ranks[rank].predicted;
    host.weights = std::max(host.weights, ranks[rank].weights);
  }
  for (const auto& [name, host] : on_host) {
    std::cerr << fmt::format("memory on {}: at most {:.2f} GB in use, {:.2f} GB predicted\n", name,
                             gigabytes(host.peak), gigabytes(host.predicted + host.weights));
  }
}

}  // namespace apb
