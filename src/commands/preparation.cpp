#include "commands/preparation.hpp"

#include <fmt/chrono.h>

#include <algorithm>
#include <ctime>
#include <functional>
#include <iostream>

#include "comm/mpi_communicator.hpp"
#include "context/methods/ulysses.hpp"
#include "error.hpp"

namespace apb {

RunInfo describe_run(const RunOptions& options, const std::string& options_json, const std::string& command_line,
                     const Device& device, Communicator& world) {
  return {.version = APB_VERSION,
          .command_line = command_line,
          .options = options_json,
          .model = options.model.string(),
          .ranks = world.size(),
          .hosts = gather_texts(world, host_name()),
          .devices = gather_texts(world, device.description()),
          .dtype = options.dtype,
          .start_time = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))};
}

void print_placement(const RunInfo& info) {
  for (std::size_t first = 0; first < info.hosts.size();) {
    std::size_t end = first + 1;
    while (end < info.hosts.size() && info.hosts[end] == info.hosts[first] && info.devices[end] == info.devices[first])
      ++end;
    const std::string ranks =
        end == first + 1 ? fmt::format("rank {}", first) : fmt::format("ranks {}-{}", first, end - 1);
    std::cerr << fmt::format("{} on {}: {}\n", ranks, info.hosts[first], info.devices[first]);
    first = end;
  }
}

void check_blocks(const MethodOptions& method, int ranks) {
  if (method.blocks && *method.blocks % ranks != 0) {
    fail_usage("--blocks {} is no multiple of the {} ranks: use a multiple, or other ranks", *method.blocks, ranks);
  }
}

void check_heads(const MethodOptions& method, const HeadShape& shape, int ranks) {
  if (method.method == Method::ulysses) ulysses_share(shape, ranks);
}

Overlap choose_overlap(Overlap asked, Communicator& world) {
  const auto hosts = gather_texts(world, host_name());
  int differ = std::adjacent_find(hosts.begin(), hosts.end(), std::not_equal_to<>()) != hosts.end() ? 1 : 0;
  world.broadcast(std::as_writable_bytes(std::span(&differ, 1)), 0);
  if (asked != Overlap::automatic) return asked;
  return differ != 0 ? Overlap::on : Overlap::off;
}

namespace {

/// The same number of values from each rank.
std::vector<double> gather_first(Communicator& world, std::span<const double> own, int ranks_used) {
  const auto bytes = world.gather(std::as_bytes(own));
  if (bytes.empty()) return {};
  const auto* values = reinterpret_cast<const double*>(bytes.data());
  return {values, values + static_cast<std::size_t>(ranks_used) * own.size()};
}

}  // namespace

std::vector<double> gather_seconds(Communicator& world, double own, int ranks_used) {
  return gather_first(world, std::span(&own, 1), ranks_used);
}

std::vector<double> gather_phases(Communicator& world, const PhaseSeconds& own, int ranks_used) {
  return gather_first(world, own, ranks_used);
}

}  // namespace apb
