// RULER's tasks against what their text says, read by other code than wrote it.
#include "tasks/ruler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>
#include <sstream>

#include "expect_error.hpp"
#include "input/prompt_template.hpp"
#include "question_files.hpp"
#include "tasks/generate.hpp"
#include "temporary_folder.hpp"

namespace apb {
namespace {

using nlohmann::json;

Tokenizer load(const std::string& family) {
  return Tokenizer::load(std::filesystem::path(APB_TEST_DATA) / ("tokenizer_" + family + ".json"));
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class RulerTest : public testing::Test {
 protected:
  RulerTest() {
    files_.squad = folder_.write("squad.json", squad_json(30, 20).dump());
    files_.hotpotqa = folder_.write("hotpot.json", hotpotqa_json(400).dump());
  }

  std::string generate(const std::vector<std::string>& tasks, const Tokenizer& tokenizer, TemplateKind kind,
                       std::int64_t length, int count) const {
    const Fitter fitter(tokenizer, kind);
    return generate_tasks(
        suite_named("ruler"),
        {.tasks = tasks, .files = files_, .length = length, .positions = 1 << 20, .count = count, .seed = seed_},
        fitter);
  }

  // Three samples of the task with GPT-2's kind of tokenizer.
  std::vector<json> samples(const std::string& task, std::int64_t length = 0) const {
    const Tokenizer tokenizer = load("gpt2");
    if (length == 0) length = 16000 + static_cast<std::int64_t>(seed_ % 999);
    std::istringstream lines(generate({task}, tokenizer, TemplateKind::chatml, length, 3));
    std::vector<json> found;
    for (std::string line; std::getline(lines, line);) found.push_back(json::parse(line));
    EXPECT_EQ(found.size(), 3U);
    return found;
  }

  const std::uint64_t seed_ = std::random_device{}();
  testing::ScopedTrace trace_{__FILE__, __LINE__, fmt::format("seed {}", seed_)};
  TemporaryFolder folder_;
  TaskFiles files_;
};

// Tokens as a run counts them; what stands at the evidence is decoded from them.
void expect_exact(const json& sample, const Tokenizer& tokenizer, TemplateKind kind, std::int64_t length) {
  SCOPED_TRACE(sample["id"].get<std::string>());
  const Prompt prompt = build_prompt(kind, tokenizer, sample["context"].get<std::string>(),
                                     sample["query"].get<std::string>(), sample["answer_prefix"].get<std::string>());
  EXPECT_EQ(static_cast<std::int64_t>(prompt.context.size() + prompt.query.size()), length);
  EXPECT_EQ(sample["length"], length);
  std::string evidence;
  for (const auto& [first, second] : sample.value("evidence", std::vector<std::pair<std::size_t, std::size_t>>{})) {
    ASSERT_LE(prompt.prefix_length, static_cast<std::int64_t>(first));
    ASSERT_LT(first, second);
    ASSERT_LE(second, prompt.context.size());
    evidence += tokenizer.decode(std::span(prompt.context).subspan(first, second - first)) + "\n";
  }
  const std::string task = sample["task"];
  if (task == "cwe" || task == "fwe") return;
  for (const std::string answer : sample["answers"]) {
    EXPECT_NE(evidence.find(answer), std::string::npos) << answer << " is not in: " << evidence;
  }
  if (task.starts_with("qa")) return;
  EXPECT_LE(evidence.size(), sample["evidence"].size() * 120) << evidence;
}

TEST_F(RulerTest, EverySampleOfEveryTaskIsExactlyAsLongAsAskedWithEveryTokenizer) {
  const std::vector<std::pair<std::string, TemplateKind>> cases = {
      {"gpt2", TemplateKind::chatml}, {"llama3", TemplateKind::llama3}, {"llama2", TemplateKind::llama2},
      {"yi", TemplateKind::chatml},   {"qwen2", TemplateKind::none},    {"prefix", TemplateKind::none}};
  for (const auto& [family, kind] : cases) {
    SCOPED_TRACE(family);
    const Tokenizer tokenizer = load(family);
    const auto length = static_cast<std::int64_t>(15000 + seed_ % 500);
    std::istringstream lines(generate({"all"}, tokenizer, kind, length, 1));
    int count = 0;
    for (std::string line; std::getline(lines, line); ++count) {
      expect_exact(json::parse(line), tokenizer, kind, length);
    }
    EXPECT_EQ(count, 13);
  }
}

TEST_F(RulerTest, FieldsOfALine) {
  const json sample = samples("niah_single_1", 8000)[2];
  EXPECT_EQ(sample["id"], "ruler-niah_single_1-8000-0002");
  EXPECT_EQ(sample["suite"], "ruler");
  EXPECT_EQ(sample["task"], "niah_single_1");
  EXPECT_EQ(sample["metric"], "match_all");
  EXPECT_EQ(sample["max_new_tokens"], 128);
}

// What a needle task is asked: kinds of keys and values, needles, answers.
struct NeedleCase {
  const char* task;
  bool uuid_keys;
  bool uuid_values;
  std::size_t answers;
  std::size_t needles;  // 0: the haystack is made of them
};

TEST_F(RulerTest, NeedlesAreInTheContextOnceAndSayWhatIsAsked) {
  const std::string uuid = "(?!0{8})[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
  const std::vector<NeedleCase> cases = {
      {"niah_single_1", false, false, 1, 1},   {"niah_single_2", false, false, 1, 1},
      {"niah_single_3", false, true, 1, 1},    {"niah_multikey_1", false, false, 1, 4},
      {"niah_multikey_2", false, false, 1, 0}, {"niah_multikey_3", true, true, 1, 0},
      {"niah_multivalue", false, false, 4, 4}, {"niah_multiquery", false, false, 4, 4}};
  for (const NeedleCase& needle : cases) {
    SCOPED_TRACE(needle.task);
    const std::string kind = needle.uuid_values ? "uuid" : "number";
    const std::regex sentence(fmt::format("One of the special magic {}s for ({}) is: ({})\\.", kind,
                                          needle.uuid_keys ? uuid : "[a-z]+-[a-z]+",
                                          needle.uuid_values ? uuid : "[1-9][0-9]{6}"));
    for (const json& sample : samples(needle.task)) {
      const std::string context = sample["context"];
      const std::string query = sample["query"];
      std::set<std::string> asked;
      std::set<std::string> values;
      std::size_t count = 0;
      for (std::sregex_iterator match(context.begin(), context.end(), sentence), end; match != end; ++match, ++count) {
        const std::regex whole_key(fmt::format(" {}(?![a-z0-9-])", (*match)[1].str()));
        if (std::regex_search(query, whole_key)) asked.insert((*match)[2]);
        EXPECT_TRUE(values.insert((*match)[2]).second);
      }
      if (needle.needles > 0) {
        EXPECT_EQ(count, needle.needles);
      } else {
        EXPECT_GT(count, 50U);
      }
      EXPECT_EQ(asked, sample["answers"].get<std::set<std::string>>());
      EXPECT_EQ(asked.size(), needle.answers);
      for (const auto& answer : asked) EXPECT_EQ(occurrences(context, answer), 1U);
      const std::string are = needle.answers == 1 ? " is" : " are";
      const std::string start = needle.answers == 1 ? fmt::format("What is the special magic {} for ", kind)
                                                    : fmt::format("What are all the special magic {}s for ", kind);
      EXPECT_TRUE(query.starts_with(start)) << query;
      EXPECT_TRUE(sample["answer_prefix"].get<std::string>().ends_with(" mentioned in the provided text" + are));
    }
  }
}

// Variables with the value that the question names, after following every assignment.
TEST_F(RulerTest, TheChainOfVariablesResolves) {
  const std::regex assignment("VAR ([A-Z]+) = (?:VAR ([A-Z]+)|([0-9]{5}))");
  const std::regex question("Question: Find all variables that are assigned the value ([0-9]{5}) in the text above\\.");
  for (const json& sample : samples("vt")) {
    const std::string context = sample["context"];
    const std::string query = sample["query"];
    std::map<std::string, std::string> values;
    for (std::sregex_iterator match(context.begin(), context.end(), assignment), end; match != end; ++match) {
      const std::string value = (*match)[2].matched ? values.at((*match)[2]) : (*match)[3].str();
      EXPECT_TRUE(values.emplace((*match)[1], value).second);
    }
    EXPECT_EQ(values.size(), 10U);  // the example's, too
    std::smatch asked;
    ASSERT_TRUE(std::regex_match(query, asked, question));
    std::set<std::string> found;
    for (const auto& [variable, value] : values) {
      if (value == asked[1]) found.insert(variable);
    }
    EXPECT_EQ(found, sample["answers"].get<std::set<std::string>>());
    EXPECT_EQ(found.size(), 5U);
    EXPECT_EQ(sample["max_new_tokens"], 30);
  }
}

std::map<std::string, int> counts_of(const std::string& text) {
  std::map<std::string, int> counts;
  std::istringstream words(text);
  for (std::string word; words >> word;) ++counts[word];
  return counts;
}

TEST_F(RulerTest, CommonWordsAreThoseThatTheListRepeats) {
  for (const std::int64_t length : {std::int64_t{4095}, std::int64_t{14000 + static_cast<int>(seed_ % 500)}}) {
    const bool is_short = length < 4096;
    for (const json& sample : samples("cwe", length)) {
      const std::string context = sample["context"];
      const std::string start = "appear most often.\n";
      std::istringstream list(context.substr(context.rfind(start) + start.size()));
      std::map<std::string, int> counts;
      int number = 0;
      for (std::string word; list >> word;) {
        EXPECT_EQ(word, fmt::format("{}.", ++number));
        ASSERT_TRUE(list >> word);
        ++counts[word];
      }
      const auto answers = sample["answers"].get<std::set<std::string>>();
      EXPECT_EQ(answers.size(), 10U);
      EXPECT_GT(counts.size(), 20U);
      for (const auto& [word, times] : counts) {
        EXPECT_EQ(times, answers.contains(word) ? (is_short ? 6 : 30) : (is_short ? 1 : 3)) << word;
        for (const auto& answer : answers) {
          EXPECT_EQ(word != answer && word.find(answer) != std::string::npos, false) << "taken for one: " << word;
        }
      }
      EXPECT_EQ(sample["max_new_tokens"], 120);
    }
  }
}

TEST_F(RulerTest, FrequentWordsAreThoseOfTheText) {
  for (const json& sample : samples("fwe")) {
    const std::string context = sample["context"];
    const std::string start = "most frequently appeared coded words. ";
    ASSERT_NE(context.find(start), std::string::npos);
    auto counts = counts_of(context.substr(context.find(start) + start.size()));
    std::vector<std::pair<int, std::string>> by_count;
    for (const auto& [word, times] : counts) {
      if (word.find_first_not_of('.') == std::string::npos) continue;
      EXPECT_EQ(word.size(), 6U);
      by_count.emplace_back(-times, word);
    }
    std::sort(by_count.begin(), by_count.end());
    ASSERT_GT(by_count.size(), 10U);
    std::vector<std::string> first;
    for (int i = 0; i < 3; ++i) first.push_back(by_count[static_cast<std::size_t>(i)].second);
    EXPECT_EQ(sample["answers"], first);
    EXPECT_LT(by_count[2].first, by_count[3].first);
    // Zeta with alpha 2: the second of all ranks (the first is noise) against the fourth.
    EXPECT_NEAR(static_cast<double>(by_count[0].first) / by_count[2].first, 4.0, 0.5);
    EXPECT_EQ(sample["max_new_tokens"], 50);
  }
}

TEST_F(RulerTest, QuestionsStandAmongNumberedDocuments) {
  for (const char* task : {"qa_1", "qa_2"}) {
    for (const json& sample : samples(task)) {
      const std::string context = sample["context"];
      std::size_t number = 1;
      for (std::size_t at = 0; (at = context.find("\n\nDocument ", at)) != std::string::npos; ++number) {
        at += std::string("\n\nDocument ").size();
        const std::size_t end = context.find(':', at);
        const std::string found = context.substr(at, end - at);
        // What fills up the length may end anywhere, within the last number, too.
        EXPECT_EQ(found, std::to_string(number).substr(0, end == std::string::npos ? found.size() : std::string::npos));
      }
      EXPECT_GT(number, 20U);
      EXPECT_EQ(sample["metric"], "match_any");
      EXPECT_NE(sample["query"].get<std::string>().find("\n\nQuestion: "), std::string::npos);
      EXPECT_NE(context.find(sample["answers"][0].get<std::string>()), std::string::npos);
    }
  }
}

TEST_F(RulerTest, TheSameSeedGivesTheSameBytesAndSamplesDiffer) {
  const Tokenizer tokenizer = load("gpt2");
  const auto one = generate({"all"}, tokenizer, TemplateKind::chatml, 15000, 3);
  EXPECT_EQ(generate({"all"}, tokenizer, TemplateKind::chatml, 15000, 3), one);
  std::istringstream lines(one);
  std::set<std::string> contexts;
  std::set<std::string> asked;
  for (std::string line; std::getline(lines, line);) {
    const json sample = json::parse(line);
    contexts.insert(sample["context"]);
    asked.insert(sample["query"].get<std::string>() + sample["answers"].dump());
  }
  EXPECT_EQ(contexts.size(), 39U);
  EXPECT_EQ(asked.size(), 39U);
  EXPECT_EQ(generate({"vt", "vt"}, tokenizer, TemplateKind::chatml, 15000, 3),
            generate({"vt"}, tokenizer, TemplateKind::chatml, 15000, 3));
  // A sample does not depend on how many are made.
  EXPECT_TRUE(generate({"vt"}, tokenizer, TemplateKind::chatml, 15000, 3)
                  .starts_with(generate({"vt"}, tokenizer, TemplateKind::chatml, 15000, 2)));
}

TEST_F(RulerTest, WhatCannotBeMade) {
  const Tokenizer tokenizer = load("gpt2");
  const auto make = [&](const std::vector<std::string>& tasks, std::int64_t length, int count = 1) {
    return [&, tasks, length, count] { generate(tasks, tokenizer, TemplateKind::chatml, length, count); };
  };
  for (const auto& task : ruler_task_names()) expect_error(make({task}, 60), {task, "at least", "--length is 60"});
  expect_error(make({"niah_single_9"}, 9000), {"'niah_single_9'", "niah_single_1", "qa_2"}, ExitCode::wrong_usage);
  expect_error(make({"qa_1"}, 1 << 19), {"524288 tokens", "600 documents"});
  files_.hotpotqa = folder_.write("few.json", hotpotqa_json(5).dump());
  expect_error(make({"qa_2"}, 400, 9), {"qa_2", "differ", "--count"});
  files_.squad.clear();
  files_.hotpotqa.clear();
  expect_error(make({"qa_1"}, 9000), {"qa_1", "--squad", "SQuAD"}, ExitCode::wrong_usage);
  expect_error(make({"all"}, 9000), {"qa_1", "--squad"}, ExitCode::wrong_usage);
  expect_error(make({"qa_2"}, 9000), {"qa_2", "--hotpotqa", "HotpotQA"}, ExitCode::wrong_usage);
  EXPECT_THROW(suite_named("rulers"), Error);
  const Fitter fitter(tokenizer, TemplateKind::chatml);
  const TaskRequest beyond{.tasks = {"vt"}, .length = 9000, .positions = 9029, .count = 1};
  expect_error([&] { generate_tasks(suite_named("ruler"), beyond, fitter); }, {"vt", "9029 positions", "8999 or less"});
}

}  // namespace
}  // namespace apb
