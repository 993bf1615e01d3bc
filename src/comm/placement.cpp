#include "comm/placement.hpp"

#include <vector>

#include "error.hpp"

namespace apb {

std::string divisors_of(int number) {
  std::vector<int> divisors;
  for (int divisor = 1; divisor <= number; ++divisor) {
    if (number % divisor == 0) divisors.push_back(divisor);
  }
  return fmt::format("{}", fmt::join(divisors, ", "));
}

Placement::Placement(MpiCommunicator& world, int ranks_per_document) : world_(world) {
  agree(world, [&] {
    if (ranks_per_document == 0 || world.size() % ranks_per_document == 0) return;
    fail_usage("--ranks-per-document {} does not divide the {} ranks: give {}", ranks_per_document, world.size(),
               divisors_of(world.size()));
  });
  if (ranks_per_document == 0 || ranks_per_document == world.size()) return;
  own_group_ = world.split(world.rank() / ranks_per_document);
}

}  // namespace apb
