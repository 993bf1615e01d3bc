#include "fat_binary.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "runtime.hpp"

namespace apb::emulation {
namespace {

/// What nvcc hands over points to a header, which entries follow: one for each architecture, PTX or machine code.
struct Wrapper {
  std::uint32_t magic;
  std::uint32_t version;
  const std::byte* data;
};
struct Header {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t header_bytes;
  std::uint64_t bytes;  // of all entries
};
struct Entry {
  std::uint16_t kind;
  std::uint16_t version;
  std::uint32_t header_bytes;
  std::uint64_t bytes;  // after the entry's header
};
constexpr std::uint32_t wrapper_magic = 0x466243b1;
constexpr std::uint32_t header_magic = 0xba55ed50;
constexpr std::uint16_t kind_ptx = 1;

[[noreturn]] void refuse(const char* why) {
  std::fprintf(stderr, "emulated GPU: %s; compile with -gencode arch=compute_80,code=compute_80 --no-compress\n", why);
  std::abort();
}

template <typename Value>
Value read(const std::byte* data) {
  Value value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

std::string find_ptx(const std::byte* data) {
  const auto header = read<Header>(data);
  if (header.magic != header_magic) refuse("an object's fat binary has an unknown header");
  const std::byte* const end = data + header.header_bytes + header.bytes;
  for (data += header.header_bytes; data < end;) {
    const auto entry = read<Entry>(data);
    if (entry.kind == kind_ptx) {
      const auto* text = reinterpret_cast<const char*>(data + entry.header_bytes);
      std::string ptx(text, strnlen(text, entry.bytes));
      if (ptx.find(".version") == std::string::npos) refuse("an object's PTX is compressed");
      return ptx;
    }
    data += entry.header_bytes + entry.bytes;
  }
  refuse("an object holds no PTX");
}

}  // namespace

const ptx::Module& FatBinary::module(ptx::Memory& memory) {
  if (!module_) module_ = std::make_unique<ptx::Module>(ptx_, memory);
  return *module_;
}

FatBinary* FatBinaries::add(const void* wrapper) {
  const auto outer = read<Wrapper>(static_cast<const std::byte*>(wrapper));
  if (outer.magic != wrapper_magic) refuse("an object's fat binary has an unknown wrapper");
  auto binary = std::make_unique<FatBinary>(find_ptx(outer.data));
  FatBinary* const handle = binary.get();
  binaries_.emplace(handle, std::move(binary));
  return handle;
}

void FatBinaries::remove(const FatBinary* binary) {
  std::erase_if(kernels_, [=](const auto& kernel) { return kernel.second.binary == binary; });
  binaries_.erase(binary);
}

void FatBinaries::add_kernel(FatBinary* binary, const void* host_function, std::string name) {
  kernels_[host_function] = {.binary = binary, .name = std::move(name)};
}

RegisteredKernel* FatBinaries::find_kernel(const void* function) {
  const auto found = kernels_.find(function);
  if (found != kernels_.end()) return &found->second;
  for (auto& [host, kernel] : kernels_) {
    if (&kernel == function) return &kernel;
  }
  return nullptr;
}

}  // namespace apb::emulation

using apb::emulation::FatBinary;
using apb::emulation::Runtime;

// What nvcc's objects call when the program starts and ends (crt/host_runtime.h).
extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  return reinterpret_cast<void**>(runtime.binaries.add(wrapper));
}

void __cudaRegisterFatBinaryEnd(void** /*binary*/) {}

void __cudaUnregisterFatBinary(void** binary) {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  runtime.binaries.remove(reinterpret_cast<FatBinary*>(binary));
}

char __cudaInitModule(void** /*binary*/) { return 0; }

void __cudaRegisterFunction(void** binary, const char* host_function, char* /*device_function*/,
                            const char* device_name, int /*thread_limit*/, uint3* /*thread*/, uint3* /*block*/,
                            dim3* /*block_size*/, dim3* /*grid_size*/, int* /*warp_size*/) {
  Runtime& runtime = Runtime::instance();
  const std::lock_guard lock(runtime.mutex);
  runtime.binaries.add_kernel(reinterpret_cast<FatBinary*>(binary), host_function, device_name);
}

// Variables live in their module; no call reaches them from the host.
void __cudaRegisterVar(void** /*binary*/, char* /*host_variable*/, char* /*device_address*/,
                       const char* /*device_name*/, int /*external*/, std::size_t /*bytes*/, int /*constant*/,
                       int /*global*/) {}
}
