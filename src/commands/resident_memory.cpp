#include "commands/resident_memory.hpp"

#include <fstream>
#include <string>

namespace apb {
namespace {

/// A line of Linux's status of this process, in bytes.
std::int64_t status_bytes(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string found, rest; file >> found; std::getline(file, rest)) {
    std::int64_t kibibytes = 0;
    if (found == name && file >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

}  // namespace

std::int64_t resident_memory() { return status_bytes("VmRSS:"); }

std::int64_t peak_resident_memory() { return status_bytes("VmHWM:"); }

void reset_peak_resident_memory() {
  constexpr char peak = '5';
  std::ofstream("/proc/self/clear_refs") << peak;
}

}  // namespace apb
