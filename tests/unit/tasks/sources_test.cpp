#include "tasks/sources.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "expect_error.hpp"
#include "question_files.hpp"
#include "temporary_folder.hpp"

namespace apb {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

bool sorted_and_unique(const Words& words) {
  return std::is_sorted(words.begin(), words.end()) && std::adjacent_find(words.begin(), words.end()) == words.end();
}

class SourcesTest : public testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(SourcesTest, BuiltInWords) {
  const WordLists lists = read_words({});
  for (const Words& words : {lists.adjectives, lists.nouns}) {
    EXPECT_TRUE(sorted_and_unique(words));
    EXPECT_GT(words.size(), 400U);
    for (const auto& word : words) {
      EXPECT_TRUE(std::all_of(word.begin(), word.end(), [](char c) { return c >= 'a' && c <= 'z'; })) << word;
    }
  }
}

TEST_F(SourcesTest, WordsOfAFile) {
  std::string text;
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b)
      text += std::string{'q', a, b, '\n'} + std::string{'Z', a, b} + "\r\nZ" + a + b + "\n";
  }
  const WordLists lists = read_words(folder_.write("words.txt", text));
  EXPECT_EQ(lists.adjectives, lists.nouns);
  EXPECT_EQ(lists.nouns.size(), 2U * 26 * 26);
  EXPECT_TRUE(sorted_and_unique(lists.nouns));
  EXPECT_EQ(lists.nouns.back(), "zzz");

  expect_error([&] { read_words(folder_.write("few.txt", "one\ntwo\none\n")); }, {"few.txt", "2 different words"});
  expect_error([&] { read_words(folder_.write("odd.txt", text + "two-fold\n")); }, {"odd.txt", "\"two-fold\""});
  expect_error([&] { read_words(folder_ / "none.txt"); }, {"none.txt", "cannot be opened"});
}

// The sentences together are the text, but for its white space.
TEST_F(SourcesTest, BuiltInEssayIsTheSample) {
  std::ifstream stream(std::string(APB_SOURCE_DIR) + "/data/samples/hacker_culture.txt");
  const Words expected{std::istream_iterator<std::string>(stream), {}};
  std::string text;
  for (const auto& sentence : read_essays({})) text += sentence + " ";
  std::istringstream joined(text);
  EXPECT_EQ((Words{std::istream_iterator<std::string>(joined), {}}), expected);
}

TEST_F(SourcesTest, SentencesOfFilesAndFolders) {
  std::string many;
  for (int i = 0; i < 100; ++i) many += "More. ";
  const std::string text = "One\n  (\"two\"). Three? \"Four!\" 3.5 five";
  const auto expect_first = [&](const std::filesystem::path& path, const Words& expected) {
    const auto sentences = read_essays(path);
    ASSERT_GE(sentences.size(), expected.size());
    EXPECT_EQ(Words(sentences.begin(), sentences.begin() + static_cast<std::ptrdiff_t>(expected.size())), expected);
  };
  const Words expected{"One (\"two\").", "Three?", "\"Four!\"", "3.5 five More.", "More."};
  expect_first(folder_.write("b.txt", text + "\n" + many), expected);
  expect_first(folder_.write("a.json", json{{"text", text + " " + many}}.dump()), expected);
  std::filesystem::remove(folder_ / "a.json");
  folder_.write("a.txt", "First of all");
  expect_first(folder_.path(), {"First of all One (\"two\")."});

  expect_error([&] { read_essays(folder_.write("short.txt", text)); }, {"short.txt", "4 sentences"});
  expect_error([&] { read_essays(folder_.write("no.json", "{\"essay\": 1}")); }, {"no.json", "field text"});
  expect_error([&] { read_essays(folder_.write("bad.txt", "ok \xFF")); }, {"bad.txt", "UTF-8 at byte 3"});
  expect_error([&] { read_essays(folder_ / "none.txt"); }, {"none.txt", "cannot be opened"});
}

TEST_F(SourcesTest, Squad) {
  const QuestionSet set = read_squad(folder_.write("squad.json", squad_json(3, 4).dump()));
  EXPECT_EQ(set.documents.size(), 12U);
  EXPECT_EQ(set.questions.size(), 12U);  // those without an answer are left out
  for (const auto& question : set.questions) {
    ASSERT_EQ(question.documents.size(), 1U);
    EXPECT_EQ(question.evidence, question.documents);
    EXPECT_EQ(question.related.size(), 3U);
    ASSERT_EQ(question.answers.size(), 2U);
    const std::string& document = set.documents.at(question.documents[0]);
    for (const auto& answer : question.answers) EXPECT_NE(document.find(answer), std::string::npos);
    for (const std::size_t place : question.related) {
      EXPECT_NE(place, question.documents[0]);
      EXPECT_EQ(set.documents.at(place).substr(0, 12), document.substr(0, 12));
    }
  }
}

TEST_F(SourcesTest, Hotpotqa) {
  const QuestionSet set = read_hotpotqa(folder_.write("hotpot.json", hotpotqa_json(5).dump()));
  EXPECT_EQ(set.documents.size(), 15U);
  ASSERT_EQ(set.questions.size(), 5U);
  for (const auto& question : set.questions) {
    EXPECT_EQ(question.documents.size(), 3U);
    ASSERT_EQ(question.evidence.size(), 2U);
    const std::string both = set.documents.at(question.evidence[0]) + set.documents.at(question.evidence[1]);
    EXPECT_NE(both.find(question.answers.at(0)), std::string::npos);
  }
}

TEST_F(SourcesTest, QuestionFilesThatCannotBeUsed) {
  expect_error([&] { read_squad(folder_ / "none.json"); }, {"none.json", "cannot be opened"});
  expect_error([&] { read_squad(folder_.write("a.json", "{\"data\": [")); }, {"a.json", "not valid JSON"});
  expect_error([&] { read_squad(folder_.write("b.json", R"({"data": [{"title": "x"}]})")); }, {"b.json", "SQuAD"});
  expect_error([&] { read_squad(folder_.write("c.json", R"({"data": []})")); }, {"c.json", "no questions"});
  expect_error([&] { read_squad(folder_.write("d.json", hotpotqa_json(2).dump())); }, {"d.json", "SQuAD"});
  expect_error([&] { read_hotpotqa(folder_.write("e.json", squad_json(2, 2).dump())); }, {"e.json", "HotpotQA"});
}

}  // namespace
}  // namespace apb
