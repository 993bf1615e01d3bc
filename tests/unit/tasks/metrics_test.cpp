// Scores of hand-made predictions, as the public scoring rules of RULER, InfiniteBench and SQuAD give them.
#include "tasks/metrics.hpp"

#include <gtest/gtest.h>

namespace apb {
namespace {

struct Case {
  std::string prediction;
  std::vector<std::string> answers;
  double score;
};

void expect_scores(Metric metric, const std::vector<Case>& cases) {
  for (const auto& one : cases) {
    EXPECT_DOUBLE_EQ(score_answer(metric, one.prediction, one.answers), one.score)
        << "\"" << one.prediction << "\" against " << testing::PrintToString(one.answers);
  }
}

TEST(Metrics, RulerCountsTheAnswersThatThePredictionContains) {
  expect_scores(Metric::match_all, {
                                       {"The number is 4711.", {"4711"}, 1},
                                       {"147112", {"4711"}, 1},  // inside another number, too
                                       {"47 11", {"4711"}, 0},
                                       {"", {"4711"}, 0},
                                       {" \n\t", {"4711"}, 0},
                                       {"ABC, def", {"aBc", "DEF"}, 1},
                                       {"VAR AB and VAR CD", {"AB", "CD", "EF", "GH"}, 0.5},
                                       {"1, 2", {"1", "2", "3"}, 2.0 / 3},
                                       {"one", {"one", "one", "two"}, 2.0 / 3},
                                       {"GRÖSSE und ÉTÉ", {"größe", "été"}, 0.5},  // lower case, no folding
                                       {"GRÖßE", {"größe"}, 1},
                                       {"ЁЖ", {"ёж"}, 1},
                                       {"東京", {"京"}, 1},
                                       {"a\x01"
                                        "b",
                                        {"ab"},
                                        0},  // a control character becomes a line end
                                       {"a\x01"
                                        "b",
                                        {"a\nb"},
                                        1},
                                       {"a\tb", {"a\nb"}, 1},
                                       {"a b \x02", {"a b"}, 1},
                                       {"end ", {"end "}, 0},  // the prediction is stripped, the answer is not
                                       {"\xC2\xA0 end", {"\xC2\xA0 end"}, 0},
                                   });
  expect_scores(Metric::match_any, {
                                       {"It is Paris", {"London", "paris"}, 1},
                                       {"London Paris", {"London", "Paris"}, 1},
                                       {"Rome", {"London", "Paris"}, 0},
                                       {"", {"London"}, 0},
                                   });
}

TEST(Metrics, InfiniteBenchTakesTheFirstRunOfDigits) {
  expect_scores(Metric::first_integer, {
                                           {"71432", {"71432"}, 1},
                                           {"The pass key is 71432. 5", {"71432"}, 1},
                                           {"1: 71432", {"71432"}, 0},
                                           {"714329", {"71432"}, 0},
                                           {"-71432", {"71432"}, 1},
                                           {"71,432", {"71432"}, 0},
                                           {"07143", {"7143"}, 0},
                                           {"key71432key", {"71432"}, 1},
                                           {"\xD9\xA7"
                                            "71432",
                                            {"71432"},
                                            1},  // ASCII digits only
                                           {"", {"71432"}, 0},
                                           {"none", {"71432"}, 0},
                                           {"22", {"11", "22"}, 0},  // the first answer counts
                                       });
}

TEST(Metrics, InfiniteBenchLooksForAWord) {
  const std::string value = "2a8d601d-1d69-4e64-9f90-8ad825a74195";
  expect_scores(Metric::word, {
                                  {value, {value}, 1},
                                  {"\"" + value + "\"}", {value}, 1},
                                  {"The value is:" + value + ".", {value}, 1},
                                  {"{'" + value + "'!?", {value}, 1},
                                  {"x" + value, {value}, 0},
                                  {value + ";", {value}, 0},  // no separator
                                  {value.substr(1), {value}, 0},
                                  {"2A8D601D-1D69-4E64-9F90-8AD825A74195", {value}, 0},
                                  {"a\xE3\x80\x80" + value, {value}, 1},  // an ideographic space
                                  {"a\x1C" + value, {value}, 1},
                                  {"", {value}, 0},
                              });
}

TEST(Metrics, ExactMatchIsNormalised) {
  expect_scores(Metric::exact, {
                                   {"The Eiffel Tower.", {"eiffel tower"}, 1},
                                   {"  an  Eiffel\nTower", {"Tower", "the eiffel tower!"}, 1},
                                   {"eiffeltower", {"Eiffel Tower"}, 0},
                                   {"Eiffel-Tower", {"eiffeltower"}, 1},  // punctuation goes without a space
                                   {"Eiffel Towers", {"Eiffel Tower"}, 0},
                                   {"theatre", {"atre"}, 0},
                                   {"on the\xE2\x80\x94"
                                    "end",
                                    {"on \xE2\x80\x94"
                                     "end"},
                                    1},  // a dash ends the word "the"
                                   {"", {"the"}, 1},
                                   {"", {"x"}, 0},
                               });
}

TEST(Metrics, F1SharesWordsWithTheBestAnswer) {
  expect_scores(Metric::f1, {
                                {"the cat sat", {"A cat sat!"}, 1},
                                {"cat", {"cat sat"}, 2.0 / 3},              // precision 1, recall 1/2
                                {"a big black cat", {"cat"}, 0.5},          // precision 1/3, recall 1
                                {"cat cat dog", {"cat dog dog"}, 2.0 / 3},  // each word as often as in both
                                {"cat sat", {"dog", "cat", "cat sat down"}, 0.8},
                                {"dog", {"cat"}, 0},
                                {"", {"cat"}, 0},
                                {"", {"the"}, 0},  // nothing is shared
                                {"Größe ÉTÉ", {"größe été"}, 1},
                            });
}

TEST(Metrics, NamesAreThoseOfTheMetadata) {
  for (const char* name : {"match_all", "match_any", "first_integer", "word", "exact", "f1"}) {
    EXPECT_TRUE(metric_named(name)) << name;
    EXPECT_NE(metric_names().find(name), std::string::npos);
  }
  EXPECT_FALSE(metric_named("rouge"));
  EXPECT_FALSE(metric_named(""));
}

}  // namespace
}  // namespace apb
