#include "commands/resident_memory.hpp"

#include <fstream>
#include <string>

namespace apb {
namespace {

/// A line of one of Linux's files about this process, in bytes; 0 where there is none.
std::int64_t bytes_in(const char* path, const std::string& name) {
  std::ifstream file(path);
  for (std::string found, rest; file >> found; std::getline(file, rest)) {
    std::int64_t kibibytes = 0;
    if (found == name && file >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

/// Of what is resident, the other processes' parts.
std::int64_t parts_of_others() {
  constexpr auto* pages = "/proc/self/smaps_rollup";
  const std::int64_t own_part = bytes_in(pages, "Pss:");
  return own_part > 0 ? bytes_in(pages, "Rss:") - own_part : 0;
}

}  // namespace

std::int64_t resident_memory() { return bytes_in("/proc/self/status", "VmRSS:") - parts_of_others(); }

std::int64_t peak_resident_memory() { return bytes_in("/proc/self/status", "VmHWM:") - parts_of_others(); }

void reset_peak_resident_memory() {
  constexpr char peak = '5';
  std::ofstream("/proc/self/clear_refs") << peak;
}

}  // namespace apb
