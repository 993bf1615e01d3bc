#include "commands/dense_check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "error.hpp"
#include "output/document_key.hpp"

namespace apb {

std::vector<bool> choose_checked(const std::vector<std::string>& ids, int count, std::uint64_t seed) {
  std::vector<bool> checked(ids.size());
  if (count == 0) return checked;
  const std::string seed_text = std::to_string(seed);
  std::vector<std::pair<std::string, std::size_t>> order;
  for (std::size_t index = 0; index < ids.size(); ++index) {
    order.emplace_back(document_key(std::array<std::string_view, 2>{seed_text, ids[index]}), index);
  }
  std::ranges::sort(order);
  order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
  for (const auto& [hash, index] : order) checked[index] = true;
  return checked;
}

RunOptions exact_options(RunOptions options) {
  options.method = {.method = Method::full};
  options.save_logits = true;
  options.save_selection = false;
  return options;
}

Job exact_job(Job job, const std::vector<Answer>& answers) {
  std::size_t longest = 0;
  for (const Answer& answer : answers) longest = std::max(longest, answer.tokens.size());
  job.lengths.max_new_tokens = static_cast<int>(longest);
  return job;
}

Drift drift_between(const Answer& answer, const Answer& exact) {
  const std::size_t vocabulary = answer.logits.size() / answer.tokens.size();
  const auto common = std::min(answer.tokens.size(), exact.tokens.size());
  const auto differing = static_cast<std::size_t>(
      std::mismatch(answer.tokens.begin(), answer.tokens.begin() + static_cast<std::ptrdiff_t>(common),
                    exact.tokens.begin())
          .first -
      answer.tokens.begin());
  Drift drift;
  if (differing < common) drift.first_differing_token = static_cast<std::int32_t>(differing);
  const std::size_t compared = std::min(differing + 1, common) * vocabulary;
  for (std::size_t i = 0; i < compared; ++i) {
    const float difference = std::abs(answer.logits[i] - exact.logits[i]);
    if (!std::isfinite(difference)) fail("logits that are not finite, at token {} of the answer", i / vocabulary);
    drift.largest_logit_difference = std::max(drift.largest_logit_difference, difference);
  }
  return drift;
}

}  // namespace apb
