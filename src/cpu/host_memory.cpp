#include "cpu/host_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <optional>
#include <string>

#include "error.hpp"

namespace apb::cpu {
namespace {

constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

/// The number that a file holds; nothing where there is no such file or it says "max".
std::optional<std::size_t> number_in(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::size_t number = 0;
  if (stream >> number) return number;
  return std::nullopt;
}

std::size_t available_on_host() {
  std::ifstream file("/proc/meminfo");
  for (std::string name, rest; file >> name; std::getline(file, rest)) {
    std::size_t kibibytes = 0;
    if (name == "MemAvailable:" && file >> kibibytes) return kibibytes * 1024;
  }
  return unlimited;
}

/// What is left under the limits of the process's control group (version 2) and of the groups around it.
std::size_t available_in_control_groups() {
  std::ifstream file("/proc/self/cgroup");
  std::size_t available = unlimited;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::/")) continue;
    const std::filesystem::path root = "/sys/fs/cgroup";
    for (std::filesystem::path group = root / line.substr(4); group != root.parent_path();
         group = group.parent_path()) {
      const auto limit = number_in(group / "memory.max");
      const auto used = number_in(group / "memory.current");
      if (limit && used) available = std::min(available, *limit - std::min(*limit, *used));
    }
  }
  return available;
}

}  // namespace

Buffer allocate_host_memory(std::size_t bytes) {
  constexpr std::size_t large_page = std::size_t{2} << 20U;
  const bool large = bytes >= 2 * large_page;
  const std::align_val_t alignment{large ? large_page : 64};
  auto* const data = static_cast<std::byte*>(::operator new(bytes, alignment, std::nothrow));
  if (data == nullptr) {
    fail("out of memory: {:.1f} GiB could not be allocated; use more ranks or a shorter document",
         static_cast<double>(bytes) / 0x1p30);
  }
  // Reading is up to a third faster with them. What lies behind the last whole page may belong to others.
  if (large) static_cast<void>(::madvise(data, bytes / large_page * large_page, MADV_HUGEPAGE));
  return {data, bytes, Space::device, [alignment](std::byte* memory) { ::operator delete(memory, alignment); }};
}

std::size_t available_host_memory() { return std::min(available_on_host(), available_in_control_groups()); }

}  // namespace apb::cpu
