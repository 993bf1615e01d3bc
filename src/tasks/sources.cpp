#include "tasks/sources.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "error.hpp"
#include "model/byte_level.hpp"
#include "model/json_file.hpp"

namespace apb {
namespace {

using nlohmann::json;
using Path = std::filesystem::path;

constexpr std::size_t fewest_words = 1000;
constexpr std::size_t fewest_sentences = 100;

std::string read_text(const Path& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) fail("{}: is a folder, expected a file", file.string());
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("{}: cannot be opened: {}", file.string(), std::strerror(errno));
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (stream.bad()) fail("{}: cannot be read: {}", file.string(), std::strerror(errno));
  const auto invalid = find_invalid_utf8(text);
  if (invalid < text.size()) fail("{}: not UTF-8 at byte {}; convert it to UTF-8", file.string(), invalid);
  return text;
}

std::vector<std::string> split(std::string_view text) {
  std::istringstream stream{std::string(text)};
  return {std::istream_iterator<std::string>(stream), {}};
}

void sort_unique(std::vector<std::string>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

// The text of a file of prose, or of JSON that holds it.
std::string read_prose(const Path& file) {
  if (file.extension() != ".json") return read_text(file);
  const json object = read_json_object(file);
  if (!object.contains("text") || !object["text"].is_string()) {
    fail("{}: has no field text with prose in it", file.string());
  }
  return object["text"].get<std::string>();
}

std::string read_folder(const Path& folder) {
  std::vector<Path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const Path& file : files) text += read_prose(file) + "\n";
  return text;
}

// A sentence ends at a word that ends in . ! or ?, with closing quotes and brackets behind it.
std::vector<std::string> sentences_of(std::string_view text) {
  std::vector<std::string> sentences;
  std::string sentence;
  for (const std::string& word : split(text)) {
    if (!sentence.empty()) sentence += ' ';
    sentence += word;
    const auto last = word.find_last_not_of("\"')]");
    if (last == std::string::npos || std::string_view(".!?").find(word[last]) == std::string_view::npos) continue;
    sentences.push_back(std::move(sentence));
    sentence.clear();
  }
  if (!sentence.empty()) sentences.push_back(std::move(sentence));
  return sentences;
}

json read_json(const Path& file) {
  try {
    return json::parse(read_text(file));
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", file.string(), json_problem(error));
  }
}

// Runs `read` on the file's JSON; what is missing or of the wrong kind in it becomes an error with the file's name.
template <typename Read>
QuestionSet read_questions(const Path& file, const char* published_as, const Read& read) {
  const json object = read_json(file);
  QuestionSet set;
  try {
    set = read(object);
  } catch (const json::exception& error) {
    fail("{}: is not as {} is published: {}", file.string(), published_as, json_problem(error));
  }
  if (set.questions.empty()) fail("{}: has no questions with answers", file.string());
  return set;
}

// Places of the documents in their sorted list.
class Places {
 public:
  explicit Places(std::vector<std::string>& documents) {
    sort_unique(documents);
    for (std::size_t place = 0; place < documents.size(); ++place) places_[documents[place]] = place;
  }
  std::size_t of(const std::string& document) const { return places_.at(document); }

 private:
  std::map<std::string, std::size_t> places_;
};

std::string hotpotqa_document(const json& titled) {
  auto document = titled.at(0).get<std::string>() + "\n";
  for (const json& sentence : titled.at(1)) document += sentence.get<std::string>();
  return document;
}

}  // namespace

WordLists read_words(const Path& file) {
  if (file.empty()) return {split(builtin_adjectives), split(builtin_nouns)};
  std::vector<std::string> words = split(read_text(file));
  for (std::string& word : words) {
    for (char& letter : word) {
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
      if (letter < 'a' || letter > 'z') fail("{}: \"{}\" is no word of the letters a to z", file.string(), word);
    }
  }
  sort_unique(words);
  if (words.size() < fewest_words) {
    fail("{}: has {} different words, {} are needed", file.string(), words.size(), fewest_words);
  }
  return {words, words};
}

std::vector<std::string> read_essays(const Path& path) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  auto sentences = sentences_of(path.empty() ? std::string(builtin_essay)
                                : folder     ? read_folder(path)
                                             : read_prose(path));
  if (sentences.size() < fewest_sentences) {
    fail("{}: has {} sentences of prose, {} are needed", path.string(), sentences.size(), fewest_sentences);
  }
  return sentences;
}

QuestionSet read_squad(const Path& file) {
  return read_questions(file, "SQuAD", [](const json& object) {
    QuestionSet set;
    for (const json& article : object.at("data")) {
      for (const json& paragraph : article.at("paragraphs")) set.documents.push_back(paragraph.at("context"));
    }
    const Places places(set.documents);
    for (const json& article : object.at("data")) {
      std::set<std::size_t> subject;
      for (const json& paragraph : article.at("paragraphs")) subject.insert(places.of(paragraph.at("context")));
      for (const json& paragraph : article.at("paragraphs")) {
        const std::size_t place = places.of(paragraph.at("context"));
        std::vector<std::size_t> related(subject.begin(), subject.end());
        std::erase(related, place);
        for (const json& entry : paragraph.at("qas")) {
          std::vector<std::string> answers;
          for (const json& answer : entry.at("answers")) answers.push_back(answer.at("text"));
          sort_unique(answers);
          if (answers.empty() || entry.value("is_impossible", false)) continue;
          set.questions.push_back({entry.at("question"), std::move(answers), {place}, {place}, related});
        }
      }
    }
    return set;
  });
}

QuestionSet read_hotpotqa(const Path& file) {
  return read_questions(file, "HotpotQA", [](const json& object) {
    QuestionSet set;
    for (const json& entry : object) {
      for (const json& titled : entry.at("context")) set.documents.push_back(hotpotqa_document(titled));
    }
    const Places places(set.documents);
    for (const json& entry : object) {
      std::set<std::string> titles;
      for (const json& fact : entry.value("supporting_facts", json::array())) titles.insert(fact.at(0));
      std::set<std::size_t> documents;
      std::set<std::size_t> evidence;
      for (const json& titled : entry.at("context")) {
        const std::size_t place = places.of(hotpotqa_document(titled));
        documents.insert(place);
        if (titles.contains(titled.at(0))) evidence.insert(place);
      }
      if (documents.empty()) continue;
      set.questions.push_back({entry.at("question"),
                               {entry.at("answer")},
                               {documents.begin(), documents.end()},
                               {evidence.begin(), evidence.end()},
                               {}});
    }
    return set;
  });
}

}  // namespace apb
