// Weights that are made up: for measuring a model's shape without its files.
#pragma once

#include <cstdint>
#include <string_view>

#include "model/weight_source.hpp"

namespace apb {

/// Every tensor that it is asked for, in BF16: norms are 1; matrices are near normal, with the standard deviation
/// 1 / sqrt(columns), so that activations keep their size through any number of layers; biases 0.02. The same name,
/// shape and seed give the same bits everywhere, on any number of threads.
class RandomWeights : public WeightSource {
 public:
  /// `threads` of this process make each tensor.
  RandomWeights(std::uint64_t seed, int threads) : seed_(seed), threads_(threads) {}

  /// The inner width of the published retaining heads.
  std::int64_t rows(std::string_view /*name*/) const override { return 1024; }
  HostMatrix tensor(std::string_view name, std::int64_t rows, std::int64_t columns) const override;

 private:
  std::uint64_t seed_;
  int threads_;
};

}  // namespace apb
