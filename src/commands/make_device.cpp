#include "commands/make_device.hpp"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "comm/mpi_communicator.hpp"
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

std::unique_ptr<Device> make_device(const RunOptions& options, Communicator& world) {
  return make_cpu_device({.threads = choose_threads(options.threads, world),
                          .compute_type = options.dtype == "fp32" ? DataType::f32 : DataType::bf16,
                          .node = world.node_memory()});
}

}  // namespace apb
