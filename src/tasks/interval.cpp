#include "tasks/interval.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace apb {
namespace {

constexpr double z = 1.959963984540054;  // 97.5 % of a normal distribution lie below

Estimate wilson(double mean, double samples) {
  const double ratio = z * z / samples;
  const double center = (mean + ratio / 2) / (1 + ratio);
  const double half = std::sqrt(ratio * (mean * (1 - mean) + ratio / 4)) / (1 + ratio);
  return {.mean = mean, .low = std::clamp(center - half, 0.0, mean), .high = std::clamp(center + half, mean, 1.0)};
}

}  // namespace

Estimate estimate_mean(std::span<const double> scores) {
  const auto count = static_cast<double>(scores.size());
  const double mean = std::accumulate(scores.begin(), scores.end(), 0.0) / count;
  const double greatest = mean * (1 - mean);  // variance of 0/1 scores
  double variance = greatest / (count + 1);
  for (const double score : scores) variance += (score - mean) * (score - mean) / (count + 1);
  return wilson(mean, variance > 0 ? count * std::max(1.0, greatest / variance) : count);
}

Estimate average_of(std::span<const Estimate> estimates) {
  Estimate sum;
  double below = 0;
  double above = 0;
  for (const Estimate& one : estimates) {
    sum.mean += one.mean;
    below += (one.mean - one.low) * (one.mean - one.low);
    above += (one.high - one.mean) * (one.high - one.mean);
  }
  const auto count = static_cast<double>(estimates.size());
  return {.mean = sum.mean / count,
          .low = (sum.mean - std::sqrt(below)) / count,
          .high = (sum.mean + std::sqrt(above)) / count};
}

}  // namespace apb
