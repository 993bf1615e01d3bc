// Where a rank stands: among all ranks, and among those that share a document with it.
#pragma once

#include <memory>
#include <string>

#include "comm/mpi_communicator.hpp"

namespace apb {

class Placement {
 public:
  /// Collective over `world`, which must outlive this. Ranks next to one another form groups of `ranks_per_document`;
  /// 0: one group of all. Throws Error (wrong usage) on all ranks when that does not divide their number.
  Placement(MpiCommunicator& world, int ranks_per_document);

  MpiCommunicator& world() const { return world_; }
  /// The ranks that share a document.
  MpiCommunicator& group() const { return own_group_ ? *own_group_ : world_; }
  int groups() const { return world_.size() / group().size(); }
  int group_number() const { return world_.rank() / group().size(); }

 private:
  MpiCommunicator& world_;
  std::unique_ptr<MpiCommunicator> own_group_;  // none where it would be the world
};

/// For messages: the numbers that divide this one.
std::string divisors_of(int number);

}  // namespace apb
