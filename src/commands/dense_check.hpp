// apb run --check-dense: which documents are answered by the exact method, too, and how far its answers are from the
// others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "commands/job.hpp"
#include "context/generate.hpp"
#include "options.hpp"
#include "output/results.hpp"

namespace apb {

/// Which documents are checked, by index: `count` of them, drawn from the seed and the ids alone.
std::vector<bool> choose_checked(const std::vector<std::string>& ids, int count, std::uint64_t seed);

/// Options and job by which the exact method answers what has been answered: with logits, and no longer answers.
RunOptions exact_options(RunOptions options);
Job exact_job(Job job, const std::vector<Answer>& answers);

/// Over the tokens up to the first that differs; of two answers to one question, both with logits, the exact one by
/// exact_job. Throws Error when logits are not finite.
Drift drift_between(const Answer& answer, const Answer& exact);

}  // namespace apb
