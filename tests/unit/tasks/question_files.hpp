// Small files in the form of SQuAD and HotpotQA.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

namespace apb {

/// Articles of paragraphs; each paragraph has a question with two answers, and one that has none.
inline nlohmann::json squad_json(int articles, int paragraphs) {
  nlohmann::json data = nlohmann::json::array();
  for (int article = 0; article < articles; ++article) {
    nlohmann::json list = nlohmann::json::array();
    for (int number = 0; number < paragraphs; ++number) {
      const std::string answer = fmt::format("ship {} of fleet {}", number, article);
      list.push_back(
          {{"context", fmt::format("Fleet {:06}. The oldest of its vessels, in a harbor to the north, was the "
                                   "{}, which carried {} lamps.",
                                   article, answer, 17 * number + article)},
           {"qas",
            {{{"question", fmt::format("Which carried {} lamps?", 17 * number + article)},
              {"is_impossible", false},
              {"answers", {{{"text", answer}}, {{"text", "the " + answer}}, {{"text", answer}}}}},
             {{"question", "Who built it?"}, {"is_impossible", true}, {"answers", nlohmann::json::array()}}}}});
    }
    data.push_back({{"title", fmt::format("Fleet {}", article)}, {"paragraphs", list}});
  }
  return {{"version", "v2.0"}, {"data", data}};
}

/// Questions with three documents each, two of which are needed.
inline nlohmann::json hotpotqa_json(int questions) {
  using nlohmann::json;
  json list = json::array();
  for (int number = 0; number < questions; ++number) {
    const auto title = [&](const char* name) { return fmt::format("{} {}", name, number); };
    const auto document = [&](const char* name, const std::string& first, const std::string& second) {
      return json::array({title(name), json::array({first, second})});
    };
    list.push_back(
        {{"question", fmt::format("In which town does the owner of boat {} live?", number)},
         {"answer", title("Town")},
         {"supporting_facts", json::array({json::array({title("Boat"), 1}), json::array({title("Owner"), 1})})},
         {"context", json::array({document("Boat", "It is green.", fmt::format(" Owner {} bought it.", number)),
                                  document("Other", "There is nothing", " to say."),
                                  document("Owner", "A sailor.", fmt::format(" Lives in {}.", title("Town")))})}});
  }
  return list;
}

}  // namespace apb
