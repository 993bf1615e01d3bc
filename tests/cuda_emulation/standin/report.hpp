// What a process did on the emulated GPU, as a file for tests.
#pragma once

#include <map>
#include <string>

#include "ptx/machine.hpp"

namespace apb::emulation {

struct Counts;

/// Writes JSON to PATH.PID: what the host asked for, and per kernel what it did.
void write_report(const std::string& path, const Counts& counts, const std::map<std::string, ptx::Counters>& kernels);

}  // namespace apb::emulation
