// A device for the tests: a module of test kernels, memory, launches.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ptx/machine.hpp"

namespace apb::ptx {

inline std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The kernels of NAME.cu.
class Device {
 public:
  explicit Device(const std::string& name)
      : module_(read_text(std::string(APB_PTX_FOLDER) + "/" + name + ".ptx"), machine_.memory()) {}

  template <typename T>
  T* allocate(std::size_t count) {
    return static_cast<T*>(machine_.memory().allocate(count * sizeof(T)));
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    T* pointer = allocate<T>(values.size());
    std::memcpy(pointer, values.data(), values.size() * sizeof(T));
    machine_.memory().mark_written(pointer, values.size() * sizeof(T));
    return pointer;
  }
  template <typename T>
  std::vector<T> download(const T* pointer, std::size_t count) {
    machine_.memory().check_readable(pointer, count * sizeof(T));
    return std::vector<T>(pointer, pointer + count);
  }

  /// The only kernel whose mangled name has all the parts.
  const Kernel& kernel(const std::vector<std::string>& parts) const {
    std::vector<std::string> found;
    for (const auto& name : module_.kernel_names()) {
      bool all = true;
      for (const auto& part : parts) all = all && name.find(part) != std::string::npos;
      if (all) found.push_back(name);
    }
    if (found.size() != 1)
      throw std::runtime_error("kernels named " + parts.at(0) + ": " + std::to_string(found.size()));
    return module_.kernel(found[0]);
  }

  template <typename... Arguments>
  void launch(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t shared, const LaunchOptions& options,
              const Arguments&... arguments) {
    const std::vector<const void*> pointers{static_cast<const void*>(&arguments)...};
    machine_.launch(kernel, grid, block, shared, pointers.data(), options);
  }
  template <typename... Arguments>
  void run(const std::string& name, Dim3 grid, Dim3 block, const Arguments&... arguments) {
    launch(module_.kernel(name), grid, block, 0, {}, arguments...);
  }

  Machine& machine() { return machine_; }
  const Module& module() const { return module_; }
  const Counters& counters(const Kernel& kernel) const { return machine_.counters().at(kernel.name()); }

 private:
  Machine machine_;
  Module module_;
};

/// Random numbers; the seed is printed when a test fails.
class Random {
 public:
  Random()
      : seed_(std::random_device{}()), generator_(seed_), trace_(__FILE__, __LINE__, "seed " + std::to_string(seed_)) {}
  std::uint64_t bits() { return generator_(); }
  float normal() { return normal_(generator_); }
  int below(int end) { return static_cast<int>(generator_() % static_cast<std::uint64_t>(end)); }

 private:
  std::uint64_t seed_;
  std::mt19937_64 generator_;
  std::normal_distribution<float> normal_;
  testing::ScopedTrace trace_;
};

}  // namespace apb::ptx
