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

namespace {

/// One text of each rank on all of them.
std::vector<std::string> texts_of_all(Communicator& world, const std::string& own) {
  auto texts = gather_texts(world, own);
  texts.resize(static_cast<std::size_t>(world.size()));
  for (auto& text : texts) broadcast_text(world, text, 0);
  return texts;
}

}  // namespace

RunInfo describe_run(const RunOptions& options, const std::string& options_json, const std::string& command_line,
                     const Device& device, Communicator& world) {
  RunInfo info{.version = APB_VERSION,
               .command_line = command_line,
               .options = options_json,
               .model = options.model.string(),
               .ranks = world.size(),
               .hosts = texts_of_all(world, host_name()),
               .devices = texts_of_all(world, device.description()),
               .dtype = options.dtype,
               .start_time = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))};
  broadcast_text(world, info.start_time, 0);
  return info;
}

void print_placement(const RunInfo& info, int groups) {
  if (groups > 1) {
    const int ranks = info.ranks / groups;
    std::cerr << fmt::format("{} documents side by side, on {} rank{} each\n", groups, ranks, ranks == 1 ? "" : "s");
  }
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
