#include "settings.hpp"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace apb::emulation {
namespace {

[[noreturn]] void refuse(const char* name, std::string_view value) {
  std::fprintf(stderr, "emulated GPU: %s=%.*s makes no sense\n", name, static_cast<int>(value.size()), value.data());
  std::abort();
}

template <typename Number>
void read(const char* name, Number& number) {
  const char* text = std::getenv(name);
  if (text == nullptr) return;
  const std::string_view value = text;
  const auto [end, error] = std::from_chars(value.begin(), value.end(), number);
  if (error != std::errc{} || end != value.end() || number < Number{}) refuse(name, value);
}

void read(const char* name, Order& order) {
  const char* text = std::getenv(name);
  if (text == nullptr) return;
  const std::string_view value = text;
  if (value == "immediate") {
    order = Order::immediate;
  } else if (value == "late") {
    order = Order::late;
  } else if (value == "contrary") {
    order = Order::contrary;
  } else {
    refuse(name, value);
  }
}

}  // namespace

Settings settings_from_environment() {
  Settings settings;
  read("APB_EMULATION_GPUS", settings.gpus);
  read("APB_EMULATION_MULTIPROCESSORS", settings.multiprocessors);
  read("APB_EMULATION_MEMORY_BYTES", settings.memory_bytes);
  read("APB_EMULATION_ORDER", settings.order);
  int forget = 0;
  read("APB_EMULATION_FORGET_STREAM_WAITS", forget);
  settings.forget_stream_waits = forget != 0;
  if (const char* report = std::getenv("APB_EMULATION_REPORT")) settings.report = report;
  return settings;
}

}  // namespace apb::emulation
