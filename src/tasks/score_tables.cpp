#include "tasks/score_tables.hpp"

#include <fmt/ostream.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace apb {
namespace {

using Json = nlohmann::ordered_json;
using Files = std::vector<FileScores>;
using Cells = std::vector<std::string>;  // one for each file

constexpr int cell_width = 25;

template <typename Score>
std::string cell(const Estimate& score, const Score& count) {
  return fmt::format("{:5.1f} [{:.1f}, {:.1f}]{}", 100 * score.mean, 100 * score.low, 100 * score.high, count);
}

std::string range(const std::set<int>& values) {
  if (values.empty()) return "-";
  const auto least = std::to_string(*values.begin());
  return values.size() == 1 ? least : fmt::format("{} to {}", least, *values.rbegin());
}

/// An option of the run as text; "-" where the file does not have it.
std::string option_of(const FileScores& file, const char* name) {
  const auto options = nlohmann::json::parse(file.info.options, nullptr, false);
  if (!options.is_object() || !options.contains(name)) return "-";
  const auto& value = options[name];
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string file_name(const std::string& path) { return std::filesystem::path(path).filename().string(); }

/// An option that only the method of the paper has.
std::string apb_option(const FileScores& file, const char* name) {
  return file.used.methods.contains("apb") ? option_of(file, name) : "-";
}

std::string retaining_heads(const FileScores& file) {
  return apb_option(file, "compressor") == "retaining-heads" ? file_name(option_of(file, "retaining_heads")) : "-";
}

/// How a file came to be: what heads its column.
std::vector<std::pair<std::string, std::string>> properties(const FileScores& file) {
  return {{"file", file_name(file.file)},
          {"model", file_name(file.info.model)},
          {"type", file.info.dtype},
          {"method", fmt::format("{}", fmt::join(file.used.methods, " and "))},
          {"B", range(file.used.blocks)},
          {"a", range(file.used.anchor_lengths)},
          {"p", range(file.used.passing_lengths)},
          {"compressor", apb_option(file, "compressor")},
          {"retaining heads", retaining_heads(file)},
          {"query in anchor", apb_option(file, "anchor_query")}};
}

std::string or_dash(const std::string& text) { return text.empty() ? "-" : text; }

/// What the files have alike in a line, then a line for each thing in which they differ.
void print_heading(std::ostream& out, const Files& files, int first_width) {
  std::vector<std::vector<std::pair<std::string, std::string>>> of_files;
  for (const auto& file : files) of_files.push_back(properties(file));
  std::string alike;
  std::string different;
  for (std::size_t i = 0; i < of_files.front().size(); ++i) {
    const auto& [name, value] = of_files.front()[i];
    const auto is_same = [&](const auto& file) { return file[i].second == of_files.front()[i].second; };
    if (std::ranges::all_of(of_files, is_same)) {
      if (value != "-") alike += fmt::format("{}{} {}", alike.empty() ? "" : ", ", name, or_dash(value));
      continue;
    }
    different += fmt::format("{:<{}}", name, first_width);
    for (const auto& file : of_files) different += fmt::format("  {:<{}}", or_dash(file[i].second), cell_width);
    different.erase(different.find_last_not_of(' ') + 1);
    different += '\n';
  }
  fmt::print(out, "{}\n\n{}", alike, different);
}

/// Where a line of the table stands: suites as they come, then lengths, then tasks as they come, the average last.
struct Line {
  std::size_t suite;
  std::int64_t length;
  std::size_t task;
  auto operator<=>(const Line&) const = default;
};

/// A table's lines, and the names that they begin with.
class Table {
 public:
  explicit Table(const Files& files) : files_(files) {
    for (std::size_t column = 0; column < files.size(); ++column) add(files[column], column);
  }

  int task_width() const {
    std::size_t width = std::string("average").size();
    for (const auto& task : tasks_) width = std::max(width, task.size());
    return static_cast<int>(width);
  }

  int suite_width() const {
    std::size_t width = std::string("suite").size();
    for (const auto& suite : suites_) width = std::max(width, suite.size());
    return static_cast<int>(width);
  }

  void print(std::ostream& out) const {
    const int first_width = suite_width() + 2 + task_width() + 2 + length_width;
    print_heading(out, files_, first_width);
    fmt::print(out, "{:<{}}  {:<{}}  {:>{}}", "suite", suite_width(), "task", task_width(), "length", length_width);
    for (std::size_t column = 0; column < files_.size(); ++column) {
      fmt::print(out, "  {:<{}}", "score, n", column + 1 < files_.size() ? cell_width : 0);
    }
    fmt::print(out, "\n");
    for (const auto& [line, cells] : lines_) {
      const bool average = line.task == average_place;
      if (average && is_single(line)) continue;
      std::string text = fmt::format("{:<{}}  {:<{}}  {:>{}}", or_dash(suites_[line.suite]), suite_width(),
                                     average ? "average" : or_dash(tasks_[line.task]), task_width(),
                                     line.length == 0 ? "-" : std::to_string(line.length), length_width);
      for (const auto& one : cells) text += fmt::format("  {:<{}}", or_dash(one), cell_width);
      text.erase(text.find_last_not_of(' ') + 1);
      fmt::print(out, "{}\n", text);
    }
  }

 private:
  static constexpr std::size_t average_place = static_cast<std::size_t>(-1);
  static constexpr int length_width = 7;

  static std::size_t place_in(std::vector<std::string>& names, const std::string& name) {
    const auto found = std::ranges::find(names, name);
    if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
    names.push_back(name);
    return names.size() - 1;
  }

  void add(const FileScores& file, std::size_t column) {
    const auto set = [&](const std::string& suite, std::int64_t length, std::size_t task, std::string text) {
      auto& cells = lines_[{place_in(suites_, suite), length, task}];
      cells.resize(files_.size());
      cells[column] = std::move(text);
    };
    for (const auto& one : file.tasks) {
      set(one.suite, one.length, place_in(tasks_, one.task), cell(one.score, fmt::format(" {}", one.scores.size())));
    }
    for (const auto& one : file.averages) set(one.suite, one.length, average_place, cell(one.score, ""));
  }

  /// Whether the line is the average of one task, which says nothing new.
  bool is_single(const Line& line) const {
    const auto found = lines_.lower_bound({line.suite, line.length, 0});
    return std::next(found)->first == line;
  }

  const Files& files_;
  std::vector<std::string> suites_;
  std::vector<std::string> tasks_;
  std::map<Line, Cells> lines_;
};

/// Averages over other tasks than those of another file cannot be compared.
void print_different_averages(std::ostream& out, const Files& files) {
  std::map<std::pair<std::string, std::int64_t>, std::set<std::set<std::string>>> tasks;
  for (const auto& file : files) {
    for (const auto& one : file.averages) {
      tasks[{one.suite, one.length}].insert(std::set<std::string>(one.tasks.begin(), one.tasks.end()));
    }
  }
  for (const auto& [place, sets] : tasks) {
    if (sets.size() == 1) continue;
    fmt::print(out, "note: the averages of suite {} at length {} are over different tasks: do not compare them\n",
               or_dash(place.first), place.second);
  }
}

Json json_of(const Estimate& score) { return {{"mean", score.mean}, {"low", score.low}, {"high", score.high}}; }

Json json_of(const TaskScore& one) {
  Json scores = Json::object();
  for (const auto& [id, score] : one.scores) scores[id] = score;
  const bool timed = one.prefill_seconds > 0;
  return {{"suite", one.suite},
          {"task", one.task},
          {"length", one.length},
          {"metric", one.metric},
          {"rows", one.scores.size()},
          {"score", json_of(one.score)},
          {"prefill_seconds", timed ? Json(one.prefill_seconds) : Json()},
          {"ttft_seconds", timed ? Json(one.ttft_seconds) : Json()},
          {"methods", one.used.methods},
          {"blocks", one.used.blocks},
          {"anchor_lengths", one.used.anchor_lengths},
          {"passing_lengths", one.used.passing_lengths},
          {"scores", std::move(scores)}};
}

Json json_of(const FileScores& file) {
  const auto options = Json::parse(file.info.options, nullptr, false);
  Json json = {{"file", file.file},
               {"model", file.info.model},
               {"dtype", file.info.dtype},
               {"ranks", file.info.ranks},
               {"options", options.is_discarded() ? Json() : options},
               {"tasks", Json::array()},
               {"averages", Json::array()},
               {"failed", Json::array()}};
  for (const auto& one : file.tasks) json["tasks"].push_back(json_of(one));
  for (const auto& one : file.averages) {
    json["averages"].push_back(
        {{"suite", one.suite}, {"length", one.length}, {"tasks", one.tasks}, {"score", json_of(one.score)}});
  }
  for (const auto& [id, message] : file.failed) json["failed"].push_back({{"id", id}, {"message", message}});
  return json;
}

}  // namespace

void print_scores(std::ostream& out, const Files& files) {
  Table(files).print(out);
  fmt::print(out, "\nin percent, with 95 % intervals\n");
  print_different_averages(out, files);
  for (const auto& file : files) {
    for (const auto& [id, message] : file.failed) {
      fmt::print(out, "note: {}: {} failed and scores 0: {}\n", file.file, id, message);
    }
  }
}

std::string scores_as_json(const Files& files) {
  Json json = {{"confidence", 0.95}, {"files", Json::array()}};
  for (const auto& file : files) json["files"].push_back(json_of(file));
  return json.dump(1) + "\n";
}

}  // namespace apb
