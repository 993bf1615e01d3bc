// Memory shared by the ranks of one node through an MPI window.
#pragma once

#include <mpi.h>

#include "comm/node_memory.hpp"

namespace apb {

class MpiNodeMemory : public NodeMemory {
 public:
  /// Collective over `parent`.
  explicit MpiNodeMemory(MPI_Comm parent);
  ~MpiNodeMemory() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Buffer allocate(std::size_t bytes, std::size_t available) override;

 private:
  MPI_Comm node_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace apb
