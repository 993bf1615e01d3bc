// The way of host memory to the device: through a ring of pinned pieces, so that the source is free at once and the
// copies overlap.
#pragma once

#include <array>

#include "cuda/arena.hpp"
#include "cuda/handles.hpp"
#include "device/view.hpp"

namespace apb::cuda {

class Staging {
 public:
  Staging(cudaStream_t stream, Arena& arena);

  /// Device::upload. The host waits only while all pieces are under way.
  void upload(ConstView source, View destination);

 private:
  struct Piece {
    PinnedMemory host;
    Event free;  // the stream has taken what was in it
  };

  /// A dense part of a row, or whole rows, that fits into a piece.
  void upload_part(const ConstView& source, const View& destination);

  cudaStream_t stream_;
  std::array<Piece, 4> pieces_;
  std::size_t next_ = 0;
  Buffer unconverted_;  // one piece on the device, what it holds in the source's type
};

}  // namespace apb::cuda
