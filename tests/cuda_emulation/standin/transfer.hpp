// Copies between device memory, pinned and pageable host memory, as operations of a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace apb::emulation {

/// `rows` rows of `bytes` bytes each, `stride` bytes from row to row.
struct CopyShape {
  std::size_t bytes = 0;
  std::size_t rows = 1;
  std::size_t destination_stride = 0;
  std::size_t source_stride = 0;
};

/// Enqueues a copy. Pageable sources are read before this returns, pinned ones when the copy runs: it is an error if
/// they have changed by then. Pinned destinations are filled with 0xFF until the copy has run. A copy to pageable
/// memory, and with `blocking` one to or from pinned memory, has run when this returns; no other has.
cudaError_t copy(void* destination, const void* source, const CopyShape& shape, cudaMemcpyKind kind,
                 cudaStream_t stream, bool blocking);

/// Enqueues the filling of device memory.
cudaError_t fill(void* destination, int value, const CopyShape& shape, cudaStream_t stream);

}  // namespace apb::emulation
