#include "cuda/check.hpp"

#include "error.hpp"

namespace apb::cuda {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  fail("CUDA: {} failed: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status));
}

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuBLAS: {} failed: {}", call, cublasLtGetStatusString(status));
}

void check(ncclResult_t status, const char* call) {
  if (status == ncclSuccess) return;
  fail("NCCL: {} failed: {}; NCCL_DEBUG=WARN tells more", call, ncclGetErrorString(status));
}

}  // namespace apb::cuda
