#include "commands/dense_check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "error.hpp"
#include "output/document_key.hpp"

namespace apb {

CheckedDocuments::CheckedDocuments(const std::vector<std::string>& ids, int count, std::uint64_t seed) : count_(count) {
  if (count == 0) return;
  const std::string seed_text = std::to_string(seed);
  std::vector<std::string> hashes;
  hashes.reserve(ids.size());
  for (const auto& id : ids) hashes.push_back(document_key(std::array<std::string_view, 2>{seed_text, id}));
  const auto hash_of = [&](int index) -> const std::string& { return hashes[static_cast<std::size_t>(index)]; };
  order_.resize(ids.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::ranges::sort(order_, {}, hash_of);
  states_.resize(ids.size(), State::open);
}

void CheckedDocuments::leave_out_failed(int index) {
  if (!order_.empty()) states_[static_cast<std::size_t>(index)] = State::failed;
}

bool CheckedDocuments::take(int index) {
  int before = 0;
  for (const int other : order_) {
    State& state = states_[static_cast<std::size_t>(other)];
    if (state == State::failed) continue;
    if (before++ == count_) return false;
    if (other != index) continue;
    state = State::taken;
    return true;
  }
  return false;
}

std::optional<int> CheckedDocuments::take_next() {
  int before = 0;
  for (const int index : order_) {
    State& state = states_[static_cast<std::size_t>(index)];
    if (state == State::failed) continue;
    if (before++ == count_) break;
    if (state == State::taken) continue;
    state = State::taken;
    return index;
  }
  return std::nullopt;
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
