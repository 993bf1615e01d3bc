#include "commands/load_module.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "error.hpp"

namespace apb {
namespace {

std::filesystem::path module_file() {
  const char* named = std::getenv("APB_CUDA_MODULE");
  if (named != nullptr) return std::filesystem::absolute(named);
  const auto file = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libapb_cuda.so";
  if (!std::filesystem::exists(file)) {
    fail("this program has been built without CUDA ({} is missing); build it where nvcc is: cmake --preset cuda",
         file.string());
  }
  return file;
}

}  // namespace

const GpuModule& load_cuda_module() {
  const auto file = module_file();
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail("{}; LD_LIBRARY_PATH must lead to the libraries of CUDA and NCCL", dlerror());
  }
  const auto entry = reinterpret_cast<GpuModuleEntry>(dlsym(library, gpu_module_entry));
  if (entry == nullptr) fail("{} is no module of apb's", file.string());
  return *entry();
}

}  // namespace apb
