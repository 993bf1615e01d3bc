#include "tasks/score.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "tasks/metrics.hpp"

namespace apb {
namespace {

using nlohmann::json;

/// What a row's metadata say about its task.
struct TaskFields {
  std::string suite;
  std::string task;
  std::int64_t length = 0;
  std::string metric;
  std::vector<std::string> answers;
};

std::string text_field(const json& metadata, const char* name, const char* otherwise) {
  const auto found = metadata.find(name);
  if (found == metadata.end()) return otherwise;
  if (!found->is_string()) fail("{} is no text", name);
  return found->get<std::string>();
}

std::int64_t length_field(const json& metadata) {
  const auto found = metadata.find("length");
  if (found == metadata.end()) return 0;
  if (!found->is_number_integer()) fail("length is no whole number");
  return found->get<std::int64_t>();
}

std::vector<std::string> answers_field(const json& metadata) {
  const auto found = metadata.find("answers");
  if (found == metadata.end()) fail("no answers to score by; the input line needs a field answers, a list of texts");
  const auto is_answer = [](const json& answer) { return answer.is_string() && answer != ""; };
  if (!found->is_array() || found->empty() || !std::ranges::all_of(*found, is_answer)) {
    fail("answers is no list of texts");
  }
  return found->get<std::vector<std::string>>();
}

TaskFields read_fields(const std::string& text) {
  const json metadata = json::parse(text.empty() ? "{}" : text, nullptr, false);
  if (!metadata.is_object()) fail("its metadata are no JSON object");
  TaskFields fields = {.suite = text_field(metadata, "suite", ""),
                       .task = text_field(metadata, "task", ""),
                       .length = length_field(metadata),
                       .metric = text_field(metadata, "metric", "match_all"),
                       .answers = answers_field(metadata)};
  if (!metric_named(fields.metric)) fail("metric is {}, expected one of {}", fields.metric, metric_names());
  return fields;
}

void add_used(UsedMethod& used, const ResultRow& row) {
  used.methods.insert(row.method);
  used.blocks.insert(row.blocks);
  used.anchor_lengths.insert(row.anchor_length);
  used.passing_lengths.insert(row.passing_length);
}

/// Sums up the rows of one results file.
class Scorer {
 public:
  Scorer(const std::string& file, const Results& results) : rows_(results.rows) {
    scores_.file = file;
    scores_.info = results.info;
  }

  FileScores score() {
    if (rows_.empty()) fail("{}: has no rows to score", scores_.file);
    for (const auto& row : rows_) {
      try {
        add(row);
      } catch (const Error& error) {
        fail("{}: row \"{}\": {}", scores_.file, row.id, error.what());
      }
    }
    for (std::size_t i = 0; i < scores_.tasks.size(); ++i) finish(scores_.tasks[i], prefills_[i]);
    std::ranges::stable_sort(scores_.tasks, {}, [&](const TaskScore& one) {
      return std::pair(std::ranges::find(suites_, one.suite) - suites_.begin(), one.length);
    });
    add_averages();
    return std::move(scores_);
  }

 private:
  void add(const ResultRow& row) {
    const TaskFields fields = read_fields(row.metadata);
    const std::size_t place = place_of(fields);
    TaskScore& task = scores_.tasks[place];
    if (!row.ok) {
      scores_.failed.emplace_back(row.id, row.message);
      task.scores.emplace_back(row.id, 0);
      return;
    }
    task.scores.emplace_back(row.id, score_answer(*metric_named(fields.metric), row.text, fields.answers));
    add_used(task.used, row);
    add_used(scores_.used, row);
    if (!(row.prefill_seconds > 0)) return;  // a further question about a document
    task.prefill_seconds += row.prefill_seconds;
    task.ttft_seconds += row.ttft_seconds;
    ++prefills_[place];
  }

  std::size_t place_of(const TaskFields& fields) {
    auto& tasks = scores_.tasks;
    const auto found = std::ranges::find_if(tasks, [&](const TaskScore& one) {
      return one.suite == fields.suite && one.task == fields.task && one.length == fields.length;
    });
    if (found == tasks.end()) {
      if (std::ranges::find(suites_, fields.suite) == suites_.end()) suites_.push_back(fields.suite);
      tasks.push_back(
          {.suite = fields.suite, .task = fields.task, .length = fields.length, .metric = fields.metric, .score = {}});
      prefills_.push_back(0);
      return tasks.size() - 1;
    }
    if (found->metric != fields.metric) {
      fail("metric is {}, other rows of task {} have {}", fields.metric, fields.task, found->metric);
    }
    return static_cast<std::size_t>(found - tasks.begin());
  }

  static void finish(TaskScore& task, int prefills) {
    std::vector<double> values;
    for (const auto& [id, score] : task.scores) values.push_back(score);
    task.score = estimate_mean(values);
    if (prefills == 0) return;
    task.prefill_seconds /= prefills;
    task.ttft_seconds /= prefills;
  }

  void add_averages() {
    const auto& tasks = scores_.tasks;
    for (std::size_t begin = 0, end = 0; begin < tasks.size(); begin = end) {
      AverageScore average = {.suite = tasks[begin].suite, .length = tasks[begin].length, .tasks = {}, .score = {}};
      std::vector<Estimate> estimates;
      for (; end < tasks.size() && tasks[end].suite == average.suite && tasks[end].length == average.length; ++end) {
        average.tasks.push_back(tasks[end].task);
        estimates.push_back(tasks[end].score);
      }
      average.score = average_of(estimates);
      scores_.averages.push_back(std::move(average));
    }
  }

  const std::vector<ResultRow>& rows_;
  FileScores scores_;
  std::vector<std::string> suites_;
  std::vector<int> prefills_;  // of each task
};

}  // namespace

FileScores score_results(const std::string& file, const Results& results) { return Scorer(file, results).score(); }

}  // namespace apb
