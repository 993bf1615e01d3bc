// apb run --check-dense: which documents are answered by the exact method, too, and how far its answers are from the
// others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "commands/job.hpp"
#include "context/generate.hpp"
#include "options.hpp"
#include "output/results.hpp"

namespace apb {

/// The documents to check: of those that have not failed the first `count`, in an order drawn from the seed and the ids
/// alone. A failure moves the next one in; nothing else changes the choice.
class CheckedDocuments {
 public:
  /// `ids` of all documents, by index.
  CheckedDocuments(const std::vector<std::string>& ids, int count, std::uint64_t seed);

  void leave_out_failed(int index);

  /// Whether the document is to be checked; from here on it counts as taken care of.
  bool take(int index);

  /// One that is to be checked and has not been taken; it counts as taken from here on.
  std::optional<int> take_next();

 private:
  enum class State { open, taken, failed };

  int count_;
  std::vector<int> order_;     // indices; none if nothing is to be checked
  std::vector<State> states_;  // by index
};

/// Options and job by which the exact method answers what has been answered: with logits, and no longer answers.
RunOptions exact_options(RunOptions options);
Job exact_job(Job job, const std::vector<Answer>& answers);

/// Over the tokens up to the first that differs; of two answers to one question, both with logits, the exact one by
/// exact_job. Throws Error when logits are not finite.
Drift drift_between(const Answer& answer, const Answer& exact);

}  // namespace apb
