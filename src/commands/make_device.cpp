#include "commands/make_device.hpp"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <optional>
#include <string_view>

#include "comm/gpu_module.hpp"
#include "comm/mpi_communicator.hpp"
#include "commands/load_module.hpp"
#include "cpu/cpu_device.hpp"
#include "error.hpp"

namespace apb {
namespace {

/// The cores that this process may run on, one character each.
std::string core_mask() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return "1";
  std::string mask(CPU_SETSIZE, '0');
  for (std::size_t core = 0; core < mask.size(); ++core) {
    if (CPU_ISSET(core, &cores)) mask[core] = '1';
  }
  return mask;
}

/// The cores bound to this rank, shared out among the ranks that are bound to the same ones.
int bound_threads(Communicator& world) {
  const std::string mask = core_mask();
  const std::string own = host_name() + " " + mask;
  std::string all;
  for (const std::string& text : gather_texts(world, own)) all += text + "\n";
  broadcast_text(world, all, 0);
  int sharing = 0;
  for (std::size_t at = 0; (at = all.find(own + "\n", at)) != std::string::npos; ++at) ++sharing;
  const auto cores = std::count(mask.begin(), mask.end(), '1');
  return std::max(1, static_cast<int>(cores) / std::max(1, sharing));
}

}  // namespace

int choose_threads(int asked, Communicator& world) {
  if (asked > 0) return asked;
  const char* slurm = std::getenv("SLURM_CPUS_PER_TASK");
  int threads = 0;
  if (slurm != nullptr) {
    const std::string_view text = slurm;
    std::from_chars(text.data(), text.data() + text.size(), threads);
  }
  return threads > 0 ? threads : bound_threads(world);
}

namespace {

/// The GPU for this rank, by its number on the node; a process that sees one GPU has been given it.
int gpu_of_rank(int visible, int node_rank) {
  if (visible == 1) return 0;
  if (node_rank >= visible) {
    fail("this rank is number {} of its node, which has {} GPUs: start one rank for each GPU (docs/clusters.md)",
         node_rank + 1, visible);
  }
  return node_rank;
}

/// Why ranks share a GPU; empty where each has its own.
std::string sharing(Communicator& host, const std::string& gpu_id) {
  const auto hosts = gather_texts(host, host_name());
  const auto ids = gather_texts(host, gpu_id);
  std::string why;
  std::map<std::string, std::size_t> owners;
  for (std::size_t rank = 0; rank < ids.size() && why.empty(); ++rank) {
    const auto [owner, is_new] = owners.emplace(hosts[rank] + " " + ids[rank], rank);
    if (is_new) continue;
    why = fmt::format("ranks {} and {} share a GPU of host {}: start one rank for each GPU (docs/clusters.md)",
                      owner->second, rank, hosts[rank]);
  }
  broadcast_text(host, why, 0);
  return why;
}

struct Gpu {
  const GpuModule* module = nullptr;
  int number = 0;
};

/// A GPU for each rank; throws Error on all ranks alike where that cannot be.
Gpu find_gpu(Communicator& host) {
  Gpu gpu;
  std::string id;
  const auto node = host.node_memory();
  agree(host, [&] {
    gpu.module = &load_cuda_module();
    gpu.number = gpu_of_rank(gpu.module->visible_gpus(), node ? node->rank() : 0);
    id = gpu.module->gpu_id(gpu.number);
  });
  const std::string why_not = sharing(host, id);
  agree(host, [&] {
    if (!why_not.empty()) fail("{}", why_not);
  });
  return gpu;
}

/// Nothing where `auto` is to take the CPU.
std::optional<Gpu> choose_gpu(const RunOptions& options, Communicator& host) {
  if (options.device == "cpu" || (options.device == "auto" && options.dtype != "bf16")) return std::nullopt;
  try {
    return find_gpu(host);
  } catch (const CommonError& error) {
    if (options.device == "auto") return std::nullopt;
    throw CommonError(fmt::format("--device cuda: {}", error.what()), error.exit_code());
  }
}

Backend make_cuda_backend(const Gpu& gpu, Communicator& world, Communicator& group) {
  Backend backend;
  agree(world, [&] { backend.device = gpu.module->make_device(gpu.number); });
  agree(world, [&] {
    backend.own_communicator = group.size() > 1 ? gpu.module->make_communicator(group, *backend.device)
                                                : std::make_unique<SingleRankCommunicator>();
  });
  return backend;
}

Backend make_cpu_backend(const RunOptions& options, Communicator& world, Communicator& group) {
  return {.device = make_cpu_device({.threads = choose_threads(options.threads, world),
                                     .compute_type = options.dtype == "fp32" ? DataType::f32 : DataType::bf16,
                                     .node = world.node_memory(),
                                     .clock = [&group] { return group.busy_seconds(); }})};
}

}  // namespace

Backend make_backend(const RunOptions& options, Communicator& world, Communicator& group) {
  const auto gpu = choose_gpu(options, world);
  Backend backend = gpu ? make_cuda_backend(*gpu, world, group) : make_cpu_backend(options, world, group);
  backend.device->set_progress([&group] { return group.progress(); });
  return backend;
}

}  // namespace apb
