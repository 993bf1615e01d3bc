#include "output/summary.hpp"

#include <fmt/ostream.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "output/progress.hpp"

namespace apb {

namespace {

using Json = nlohmann::ordered_json;

/// Text in one line of at most about 60 characters; UTF-8 is cut between characters only.
std::string shortened(const std::string& text) {
  constexpr std::size_t most = 60;
  std::string line;
  for (const char c : text) {
    const bool continues_character = (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
    if (line.size() >= most && !continues_character) return line + "...";
    line += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return line;
}

std::string distinct(const std::vector<std::string>& values) {
  const std::set<std::string> sorted(values.begin(), values.end());
  return fmt::format("{}", fmt::join(sorted, ", "));
}

/// Mean phase times over the rows that have any, [ranks, phases]: a rank's mean is over the rows that used it.
std::vector<double> mean_phases(const std::vector<ResultRow>& rows) {
  std::vector<double> sums;
  std::vector<int> counts;
  for (const auto& row : rows) {
    if (!(row.prefill_seconds > 0)) continue;
    sums.resize(std::max(sums.size(), row.phase_seconds.size()));
    counts.resize(sums.size());
    for (std::size_t i = 0; i < row.phase_seconds.size(); ++i) {
      sums[i] += row.phase_seconds[i];
      ++counts[i];
    }
  }
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] /= counts[i];
  return sums;
}

Json json_of(const ResultRow& row) {
  Json json;
  json["id"] = row.id;
  json["status"] = row.ok ? "ok" : "failed";
  json["message"] = row.message;
  json["text"] = row.text;
  json["finish_reason"] = row.finish_reason;
  json["token_ids"] = row.token_ids;
  json["context_length"] = row.context_length;
  json["query_length"] = row.query_length;
  json["method"] = row.method;
  json["blocks"] = row.blocks;
  json["anchor_length"] = row.anchor_length;
  json["passing_length"] = row.passing_length;
  json["ranks_used"] = row.ranks_used;
  json["ttft_seconds"] = row.ttft_seconds;
  json["prefill_seconds"] = row.prefill_seconds;
  json["decode_seconds"] = row.decode_seconds;
  if (row.drift) {
    json["drift"] = {{"largest_logit_difference", row.drift->largest_logit_difference},
                     {"first_differing_token", row.drift->first_differing_token},
                     {"answers_equal", row.drift->answers_equal()}};
  }
  json["metadata"] = row.metadata.empty() ? Json::object() : Json::parse(row.metadata);
  return json;
}

}  // namespace

void print_summary(std::ostream& out, const Results& results) {
  const auto& info = results.info;
  const auto& rows = results.rows;
  fmt::print(out, "apb {}, started {}\n", info.version, info.start_time);
  fmt::print(out, "command  {}\n", info.command_line);
  fmt::print(out, "model    {}, {}\n", info.model, info.dtype);
  fmt::print(out, "ranks    {} on {} ({})\n", info.ranks, distinct(info.hosts), distinct(info.devices));
  const auto ok = std::ranges::count_if(rows, &ResultRow::ok);
  fmt::print(out, "rows     {} ok, {} failed\n", ok, std::ssize(rows) - ok);
  DriftSummary(rows).print(out);
  out << '\n';
  for (const auto& row : rows) {
    if (row.ok) {
      fmt::print(out, "{}: ok, {} + {} tokens, {} out, first token after {:.3f} s: {}\n", row.id, row.context_length,
                 row.query_length, row.token_ids.size(), row.ttft_seconds, shortened(row.text));
    } else {
      fmt::print(out, "{}: failed: {}\n", row.id, row.message);
    }
  }
  if (const auto phases = mean_phases(rows); !phases.empty()) {
    fmt::print(out, "\nPrefill, mean over documents; min, mean and max over ranks\n");
    print_breakdown(out, phases);
  }
}

DriftSummary::DriftSummary(const std::vector<ResultRow>& rows) {
  for (const auto& row : rows) {
    if (row.drift) add(*row.drift);
  }
}

void DriftSummary::add(const Drift& drift) {
  ++answers;
  if (drift.answers_equal()) ++equal;
  largest = std::max(largest, drift.largest_logit_difference);
}

void DriftSummary::print(std::ostream& out) const {
  if (answers == 0) return;
  fmt::print(out, "checked against full: {} answers, {} equal, largest logit difference {:.4g}\n", answers, equal,
             largest);
}

void print_json_lines(std::ostream& out, const Results& results) {
  for (const auto& row : results.rows) out << json_of(row).dump() << '\n';
}

}  // namespace apb
