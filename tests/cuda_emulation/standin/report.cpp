#include "report.hpp"

#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime.hpp"

namespace apb::emulation {
namespace {

using nlohmann::json;

json to_json(const ptx::SharedAccesses& shared) {
  return {{"accesses", shared.accesses}, {"extra_wavefronts", shared.extra_wavefronts}};
}

json to_json(const ptx::GlobalAccesses& global) {
  return {{"accesses", global.accesses},
          {"sectors", global.sectors},
          {"least_sectors", global.least_sectors},
          {"bytes", global.bytes}};
}

json to_json(const ptx::Counters& counters) {
  return {{"launches", counters.launches},
          {"blocks", counters.blocks},
          {"instructions", counters.instructions},
          {"lane_instructions", counters.lane_instructions},
          {"mma", counters.mma},
          {"barriers", counters.barriers},
          {"shared_load", to_json(counters.shared_load)},
          {"shared_store", to_json(counters.shared_store)},
          {"shared_atomic", to_json(counters.shared_atomic)},
          {"ldmatrix", to_json(counters.ldmatrix)},
          {"shared_cp_async", to_json(counters.shared_cp_async)},
          {"global_load", to_json(counters.global_load)},
          {"global_store", to_json(counters.global_store)},
          {"global_atomic", to_json(counters.global_atomic)},
          {"global_cp_async", to_json(counters.global_cp_async)}};
}

}  // namespace

void write_report(const std::string& path, const Counts& counts, const std::map<std::string, ptx::Counters>& kernels) {
  json report = {{"device_allocations", counts.device_allocations},
                 {"host_allocations", counts.host_allocations},
                 {"host_waits", counts.host_waits},
                 {"operations", counts.operations},
                 {"kernels", json::object()}};
  for (const auto& [name, counters] : kernels) report["kernels"][name] = to_json(counters);
  std::ofstream(path + "." + std::to_string(getpid())) << report.dump(1) << '\n';
}

}  // namespace apb::emulation
