// The kernels that nvcc's objects register when the program starts.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>

#include "ptx/machine.hpp"

namespace apb::emulation {

/// One object file's PTX, read when its first kernel is used.
class FatBinary {
 public:
  explicit FatBinary(std::string ptx) : ptx_(std::move(ptx)) {}
  const ptx::Module& module(ptx::Memory& memory);

 private:
  std::string ptx_;
  std::unique_ptr<ptx::Module> module_;
};

struct RegisteredKernel {
  FatBinary* binary = nullptr;
  std::string name;                              // mangled
  std::size_t dynamic_shared_bytes = 48 * 1024;  // at most, until cudaFuncSetAttribute raises it

  const ptx::Kernel& code(ptx::Memory& memory) const { return binary->module(memory).kernel(name); }
};

class FatBinaries {
 public:
  /// `wrapper` is what nvcc hands to __cudaRegisterFatBinary. Ends the program if no readable PTX is in it.
  FatBinary* add(const void* wrapper);
  void remove(const FatBinary* binary);
  void add_kernel(FatBinary* binary, const void* host_function, std::string name);
  /// By the host's function or the handle that find_kernel returned for it; null if there is none.
  RegisteredKernel* find_kernel(const void* function);

 private:
  std::map<const FatBinary*, std::unique_ptr<FatBinary>> binaries_;
  std::map<const void*, RegisteredKernel> kernels_;  // by host function
};

}  // namespace apb::emulation
