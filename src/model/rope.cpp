#include "model/rope.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace apb {
namespace {

// Llama 3.1: frequencies of fewer than low_frequency_factor turns over the original positions are divided by factor,
// those of more than high_frequency_factor turns stay, and those between are mixed, linearly in their turns.
double llama3_frequency(const RopeScaling& scaling, double frequency) {
  const double turns = scaling.original_positions * frequency / (2.0 * std::numbers::pi);
  const double kept = std::clamp(
      (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor), 0.0,
      1.0);
  return frequency * (kept + (1.0 - kept) / scaling.factor);
}

// The pair (not an integer) that makes this many turns over the original positions.
double pair_of_turns(const ModelConfig& config, double turns) {
  const double wavelength = config.rope_scaling.original_positions / turns;
  return config.head_dim * std::log(wavelength / (2.0 * std::numbers::pi)) / (2.0 * std::log(config.rope_theta));
}

// YaRN (arXiv 2309.00071): pairs of more than beta_fast turns stay, those of fewer than beta_slow are divided by
// factor. As in its published code, and so in the models trained with it, what lies between is mixed linearly in the
// pair's index, from and to whole indices.
double yarn_frequency(const ModelConfig& config, int pair, double frequency) {
  const RopeScaling& scaling = config.rope_scaling;
  const double first = std::max(std::floor(pair_of_turns(config, scaling.beta_fast)), 0.0);
  const double last = std::min(std::ceil(pair_of_turns(config, scaling.beta_slow)), config.head_dim - 1.0);
  const double width = first == last ? 0.001 : last - first;  // one pair: a step
  const double divided = std::clamp((pair - first) / width, 0.0, 1.0);
  return frequency * ((1.0 - divided) + divided / scaling.factor);
}

double scaled_frequency(const ModelConfig& config, int pair) {
  const double frequency = std::pow(config.rope_theta, -2.0 * pair / config.head_dim);
  switch (config.rope_scaling.kind) {
    case RopeScaling::Kind::none:
      return frequency;
    case RopeScaling::Kind::linear:
      return frequency / config.rope_scaling.factor;
    case RopeScaling::Kind::llama3:
      return llama3_frequency(config.rope_scaling, frequency);
    case RopeScaling::Kind::yarn:
      return yarn_frequency(config, pair, frequency);
  }
  return frequency;
}

}  // namespace

std::vector<float> rotary_table(const ModelConfig& config, std::int64_t positions) {
  const int half = config.head_dim / 2;
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (int pair = 0; pair < half; ++pair) {
    frequencies[static_cast<std::size_t>(pair)] = scaled_frequency(config, pair);
  }

  const double scale = config.rope_scaling.attention_factor;
  std::vector<float> table;
  table.reserve(static_cast<std::size_t>(positions) * static_cast<std::size_t>(config.head_dim));
  for (std::int64_t position = 0; position < positions; ++position) {
    const auto at = static_cast<double>(position);
    for (const double frequency : frequencies) table.push_back(static_cast<float>(scale * std::cos(at * frequency)));
    for (const double frequency : frequencies) table.push_back(static_cast<float>(scale * std::sin(at * frequency)));
  }
  return table;
}

}  // namespace apb
