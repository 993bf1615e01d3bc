// What a run and a report say.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "output/progress.hpp"
#include "output/summary.hpp"
#include "rows.hpp"

namespace apb {
namespace {

using namespace testing_output;

TEST(Progress, WritesALinePerDocumentToALog) {
  std::ostringstream out;
  Progress progress(out, false, 12);
  progress.done({.number = 1, .id = "a", .message = "", .tokens = 1000, .seconds = 2.5}, 2.5);
  progress.done({.number = 2, .id = "b", .message = "no query", .tokens = 0, .seconds = 0}, 2.5);
  progress.note("c: not checked");
  progress.done({.number = 3, .id = "c", .message = "", .tokens = 10, .seconds = 1, .check_seconds = 3}, 6.5);
  progress.finish();
  EXPECT_EQ(out.str(),
            "[1/12] a: 1000 tokens in 2.50 s\n[2/12] b: failed: no query\nc: not checked\n"
            "[3/12] c: 10 tokens in 1.00 s, checked in 3.00 s\n");
}

TEST(Progress, RewritesOneLineOnATerminalAndKeepsFailures) {
  std::ostringstream out;
  Progress progress(out, true, 4);
  progress.done({.number = 1, .id = "a", .message = "", .tokens = 1000, .seconds = 50}, 50);
  EXPECT_EQ(out.str(), "\r\033[K1/4 documents, 20 tokens/s, 2:30 left");
  out.str("");
  progress.done({.number = 2, .id = "b", .message = "no query", .tokens = 0, .seconds = 0}, 50);
  EXPECT_EQ(out.str(), "\r\033[K[2/4] b: failed: no query\n2/4 documents, 20 tokens/s, 0:50 left");
  out.str("");
  progress.finish();
  EXPECT_EQ(out.str(), "\n");
}

TEST(Progress, ANoteStaysAboveTheLineOnATerminal) {
  std::ostringstream out;
  Progress progress(out, true, 4);
  progress.note("c: not checked");
  EXPECT_EQ(out.str(), "\r\033[Kc: not checked\n");
}

TEST(Drift, ASummaryOfTheRowsThatWereChecked) {
  std::ostringstream out;
  DriftSummary drifts;
  drifts.print(out);
  EXPECT_EQ(out.str(), "");
  drifts.add(Drift{.largest_logit_difference = 0.25F, .first_differing_token = -1});
  drifts.add(Drift{.largest_logit_difference = 2.5F, .first_differing_token = 0});
  drifts.add(Drift{.largest_logit_difference = 1, .first_differing_token = 4});
  drifts.print(out);
  EXPECT_EQ(out.str(), "checked against full: 3 answers, 1 equal, largest logit difference 2.5\n");
}

TEST(Progress, ClockText) {
  EXPECT_EQ(clock_text(0), "0:00");
  EXPECT_EQ(clock_text(59.6), "1:00");
  EXPECT_EQ(clock_text(3599), "59:59");
  EXPECT_EQ(clock_text(3723), "1:02:03");
}

TEST(Breakdown, ShowsSpreadOverRanksAndShareOfTheTotal) {
  std::vector<double> seconds(3 * phases, 0.0);
  const auto set = [&](std::size_t phase, std::array<double, 3> times) {
    for (std::size_t rank = 0; rank < 3; ++rank) seconds[rank * phases + phase] = times[rank];
  };
  set(1, {1, 2, 3});
  set(4, {6, 6, 6});
  std::ostringstream out;
  print_breakdown(out, seconds);
  const std::string text = out.str();
  EXPECT_NE(text.find("projection        1.0000    2.0000    3.0000    25.0%\n"), std::string::npos) << text;
  EXPECT_NE(text.find("attention         6.0000    6.0000    6.0000    75.0%\n"), std::string::npos) << text;
  EXPECT_NE(text.find("head              0.0000    0.0000    0.0000     0.0%\n"), std::string::npos) << text;
  EXPECT_NE(text.find("total             7.0000    8.0000    9.0000   100.0%\n"), std::string::npos) << text;
}

Results three_rows() {
  auto first = ok_row("first", 1);
  first.text = "line one\nline two " + std::string(39, 'x') + "東東東東東";
  return {.info = make_info(), .saved = {}, .rows = {first, failed_row("second", "bad line"), ok_row("third", 3)}};
}

TEST(Summary, NamesEveryDocumentAndItsFate) {
  std::ostringstream out;
  const auto results = three_rows();
  print_summary(out, results);
  const std::string text = out.str();
  EXPECT_NE(text.find("ranks    3 on node1, node2 (cpu)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("rows     2 ok, 1 failed\n"), std::string::npos) << text;
  EXPECT_NE(text.find("second: failed: bad line\n"), std::string::npos) << text;
  EXPECT_NE(text.find(": line one line two " + std::string(39, 'x') + "東...\n"), std::string::npos) << text;
  EXPECT_NE(text.find("total"), std::string::npos) << text;
}

TEST(Summary, OfNoRowsHasNoBreakdown) {
  std::ostringstream out;
  print_summary(out, {.info = make_info(), .saved = {}, .rows = {}});
  EXPECT_NE(out.str().find("rows     0 ok, 0 failed\n"), std::string::npos);
  EXPECT_EQ(out.str().find("total"), std::string::npos);
}

TEST(Summary, PhasesAreMeansOverTheRowsThatUsedARank) {
  auto one = ok_row("one", 1);
  one.ranks_used = 1;
  one.phase_seconds.assign(phases, 1.0);
  auto two = one;
  two.ranks_used = 2;
  two.phase_seconds.assign(2 * phases, 3.0);
  auto no_prefill = two;
  no_prefill.prefill_seconds = 0;
  no_prefill.phase_seconds.assign(2 * phases, 0.0);
  std::ostringstream out;
  print_summary(out, {.info = make_info(), .saved = {}, .rows = {one, two, no_prefill}});
  EXPECT_NE(out.str().find("embed             2.0000    2.5000    3.0000    11.1%\n"), std::string::npos) << out.str();
}

TEST(JsonLines, HoldTheRowsFields) {
  std::ostringstream out;
  const auto results = three_rows();
  print_json_lines(out, results);
  std::istringstream lines(out.str());
  std::string line;
  for (const auto& row : results.rows) {
    ASSERT_TRUE(std::getline(lines, line));
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json.at("id"), row.id);
    EXPECT_EQ(json.at("status"), row.ok ? "ok" : "failed");
    EXPECT_EQ(json.at("message"), row.message);
    EXPECT_EQ(json.at("text"), row.text);
    EXPECT_EQ(json.at("token_ids").get<std::vector<std::int32_t>>(), row.token_ids);
    EXPECT_EQ(json.at("ttft_seconds"), row.ttft_seconds);
    EXPECT_EQ(json.at("metadata").empty(), row.metadata.empty());
  }
  EXPECT_FALSE(std::getline(lines, line));
}

}  // namespace
}  // namespace apb
