// How answers are scored: RULER's string matches, InfiniteBench's rules, exact match and F1 (docs/quality.md).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace apb {

enum class Metric {
  match_all,      // RULER: share of the answers that the prediction contains, whatever their case
  match_any,      // RULER, questions: 1 if it contains one of them
  first_integer,  // InfiniteBench: 1 if its first run of digits is the first answer
  word,           // InfiniteBench: 1 if the first answer is one of its words
  exact,          // 1 if it is one of the answers, after SQuAD's normalisation
  f1,             // words shared with the best answer, after SQuAD's normalisation
};

/// Nothing if there is no metric of that name.
std::optional<Metric> metric_named(std::string_view name);

/// All names, for messages.
std::string metric_names();

/// A score in [0, 1]; `answers` holds at least one. Text is UTF-8.
double score_answer(Metric metric, std::string_view prediction, const std::vector<std::string>& answers);

}  // namespace apb
