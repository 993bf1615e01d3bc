#include "tasks/ruler.hpp"

#include <map>

#include "error.hpp"

namespace apb {
namespace {

const std::map<std::string, NeedleTask>& needle_tasks() {
  static const std::map<std::string, NeedleTask> tasks = {
      {"niah_single_1", {.haystack = Haystack::noise}},
      {"niah_single_2", {}},
      {"niah_single_3", {.values = NeedleText::uuids}},
      {"niah_multikey_1", {.key_count = 4}},
      {"niah_multikey_2", {.haystack = Haystack::needles}},
      {"niah_multikey_3", {.haystack = Haystack::needles, .keys = NeedleText::uuids, .values = NeedleText::uuids}},
      {"niah_multivalue", {.values_per_key = 4}},
      {"niah_multiquery", {.key_count = 4, .queried_keys = 4}},
  };
  return tasks;
}

std::shared_ptr<const QuestionSet> questions_for(const std::string& name, const TaskFiles& files) {
  const bool squad = name == "qa_1";
  const std::filesystem::path& file = squad ? files.squad : files.hotpotqa;
  if (file.empty()) {
    fail_usage("task {} needs {}", name,
               squad ? "--squad FILE.json: the development set of SQuAD 2.0 (Rajpurkar et al., 2018), dev-v2.0.json"
                     : "--hotpotqa FILE.json: the development set of HotpotQA (Yang et al., 2018), distractor setting, "
                       "hotpot_dev_distractor_v1.json");
  }
  return std::make_shared<const QuestionSet>(squad ? read_squad(file) : read_hotpotqa(file));
}

}  // namespace

const std::vector<std::string>& ruler_task_names() {
  static const std::vector<std::string> names = {"niah_single_1",
                                                 "niah_single_2",
                                                 "niah_single_3",
                                                 "niah_multikey_1",
                                                 "niah_multikey_2",
                                                 "niah_multikey_3",
                                                 "niah_multivalue",
                                                 "niah_multiquery",
                                                 "vt",
                                                 "cwe",
                                                 "fwe",
                                                 "qa_1",
                                                 "qa_2"};
  return names;
}

TaskDefinition ruler_task(const std::string& name, const TaskFiles& files, std::int64_t length) {
  const auto needles = needle_tasks().find(name);
  if (needles != needle_tasks().end()) return needle_task(needles->second, files);
  if (name == "vt") return variable_tracking_task();
  if (name == "cwe") return common_words_task(files, length);
  if (name == "fwe") return frequent_words_task(length);
  return question_task(questions_for(name, files));
}

}  // namespace apb
