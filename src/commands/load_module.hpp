// Finding the CUDA device at run time, so that the program starts on machines without CUDA.
#pragma once

#include "comm/gpu_module.hpp"

namespace apb {

/// The module libapb_cuda.so that lies beside the program, or the file that APB_CUDA_MODULE names; it stays loaded.
/// Throws Error that says what is missing.
const GpuModule& load_cuda_module();

}  // namespace apb
