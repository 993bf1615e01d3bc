// qa_*: a question about one or two of many documents.
#include <algorithm>
#include <set>

#include "error.hpp"
#include "tasks/ruler.hpp"

namespace apb {
namespace {

constexpr std::size_t filler_documents = 4;
constexpr const char* instruction =
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n";

/// Documents in the order in which they are taken: the question's own, related ones, any others.
std::vector<std::size_t> documents_for(const QuestionSet& set, const QuestionSet::Question& question,
                                       TaskRandom& random) {
  std::vector<std::size_t> chosen = question.documents;
  std::vector<std::size_t> related = question.related;
  random.shuffle(related);
  chosen.insert(chosen.end(), related.begin(), related.end());
  const std::set<std::size_t> taken(chosen.begin(), chosen.end());
  std::vector<std::size_t> others;
  for (std::size_t place = 0; place < set.documents.size(); ++place) {
    if (!taken.contains(place)) others.push_back(place);
  }
  random.shuffle(others);
  chosen.insert(chosen.end(), others.begin(), others.end());
  return chosen;
}

Draft draw_question(const QuestionSet& set, TaskRandom random, std::size_t units) {
  const auto& question = random.choose(set.questions);
  std::vector<std::size_t> documents = documents_for(set, question, random);
  const std::size_t count = std::max(units, question.documents.size());
  const std::vector<std::size_t> further(
      documents.begin() + static_cast<std::ptrdiff_t>(count),
      documents.begin() + static_cast<std::ptrdiff_t>(std::min(documents.size(), count + filler_documents)));
  documents.resize(count);
  random.shuffle(documents);

  Draft draft;
  draft.before = std::string(instruction) + "The following are given documents.";
  std::size_t number = 0;
  for (const std::size_t place : documents) {
    draft.before += fmt::format("\n\nDocument {}:\n", ++number);
    const std::size_t begin = draft.before.size();
    draft.before += set.documents[place];
    if (std::binary_search(question.evidence.begin(), question.evidence.end(), place)) {
      draft.evidence.emplace_back(begin, draft.before.size());
    }
  }
  for (const std::size_t place : further) {
    draft.filler += fmt::format("\n\nDocument {}:\n{}", ++number, set.documents[place]);
  }
  draft.query = fmt::format("{}Question: {}", instruction, question.text);
  draft.answer_prefix = " Answer:";
  draft.answers = question.answers;
  return draft;
}

}  // namespace

TaskDefinition question_task(std::shared_ptr<const QuestionSet> questions) {
  const std::size_t documents = questions->documents.size();
  return {.metric = "match_any",
          .max_new_tokens = 32,
          .most_units = static_cast<std::int64_t>(documents),
          .what_runs_out = fmt::format("the file's {} documents have", documents),
          .draft = [questions = std::move(questions)](const TaskRandom& random, std::int64_t units) {
            return draw_question(*questions, random, static_cast<std::size_t>(units));
          }};
}

}  // namespace apb
