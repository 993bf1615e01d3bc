// What the emulated machine is like, from the environment.
#pragma once

#include <cstddef>
#include <string>

#include "scheduler.hpp"

namespace apb::emulation {

struct Settings {
  int gpus = 8;                                      // APB_EMULATION_GPUS, on this host
  int multiprocessors = 132;                         // APB_EMULATION_MULTIPROCESSORS, a GPU
  std::size_t memory_bytes = std::size_t{8} << 30U;  // APB_EMULATION_MEMORY_BYTES, a GPU
  Order order = Order::late;                         // APB_EMULATION_ORDER: immediate, late or contrary
  bool forget_stream_waits = false;  // APB_EMULATION_FORGET_STREAM_WAITS=1 plants a bug: no stream waits for another
  std::string report;                // APB_EMULATION_REPORT: file for the counts, written at exit
};

/// Ends the program with a message when a value makes no sense.
Settings settings_from_environment();

}  // namespace apb::emulation
