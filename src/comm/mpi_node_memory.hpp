// Memory shared by the ranks of one node through an MPI window.
#pragma once

#include <mpi.h>

#include <functional>

#include "comm/node_memory.hpp"

namespace apb {

class MpiNodeMemory : public NodeMemory {
 public:
  /// Collective over `parent`. `meet` returns when all its ranks have called it, and is called before the ranks wait
  /// for one another in MPI, which would wait for ever for one that is not there.
  MpiNodeMemory(MPI_Comm parent, std::function<void()> meet);
  ~MpiNodeMemory() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Buffer allocate(std::size_t bytes, std::size_t available) override;

 private:
  std::function<void()> meet_;
  MPI_Comm node_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace apb
