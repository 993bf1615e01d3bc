// Memory shared by the ranks of one node.
#pragma once

#include <mpi.h>

#include <functional>

#include "comm/node_memory.hpp"

namespace apb {

class MpiNodeMemory : public NodeMemory {
 public:
  /// Takes over `node`, the ranks of this node. `wait` returns when an MPI request is done; nothing else waits here, so
  /// a time limit of it holds.
  MpiNodeMemory(MPI_Comm node, std::function<void(MPI_Request*)> wait);
  ~MpiNodeMemory() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Buffer allocate(std::size_t bytes, std::size_t available) override;

 private:
  void check_available(std::size_t bytes, std::size_t available);
  /// The first error number of any rank; 0: none.
  int any_error(int error);

  std::function<void(MPI_Request*)> wait_;
  MPI_Comm node_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace apb
