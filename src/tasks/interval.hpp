// Means of scores with the range that the true value lies in with 95 % confidence.
#pragma once

#include <span>

namespace apb {

struct Estimate {
  double mean = 0;
  double low = 0;
  double high = 0;
};

/// The mean of scores in [0, 1], at least one, with Wilson's score interval. Fractional scores vary less than 0/1
/// scores of the same mean; they count as the larger number of samples of 0/1 scores that would vary as little. One
/// more score of the greatest variance is assumed there, so that equal fractions do not pass for certain.
Estimate estimate_mean(std::span<const double> scores);

/// The mean of independent estimates, each counting alike: their distances to the ends of their intervals add up in
/// squares (Zou and Donner's MOVER), which keeps intervals of means at 0 or 1 as wide as they should be.
Estimate average_of(std::span<const Estimate> estimates);

}  // namespace apb
