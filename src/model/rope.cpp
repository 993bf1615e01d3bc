#include "model/rope.hpp"

#include <cmath>
#include <cstddef>

namespace apb {

std::vector<float> rotary_table(const ModelConfig& config, std::int64_t positions) {
  const int half = config.head_dim / 2;
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (int i = 0; i < half; ++i) {
    frequencies[static_cast<std::size_t>(i)] = std::pow(config.rope_theta, -2.0 * i / config.head_dim);
  }

  std::vector<float> table;
  table.reserve(static_cast<std::size_t>(positions) * static_cast<std::size_t>(config.head_dim));
  for (std::int64_t position = 0; position < positions; ++position) {
    const auto at = static_cast<double>(position);
    for (const double frequency : frequencies) table.push_back(static_cast<float>(std::cos(at * frequency)));
    for (const double frequency : frequencies) table.push_back(static_cast<float>(std::sin(at * frequency)));
  }
  return table;
}

}  // namespace apb
