// The one place where what CUDA's libraries return is turned into errors.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

namespace apb::cuda {

/// Throws Error with the library's own text unless the call succeeded.
void check(cudaError_t status, const char* call);
void check(cublasStatus_t status, const char* call);
void check(ncclResult_t status, const char* call);

}  // namespace apb::cuda
