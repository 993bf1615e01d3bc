// The documents of a run: JSON Lines, or one text file with a question.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace apb {

struct Document {
  std::string id;
  std::int64_t line = 1;             // in the input file, from 1
  std::string error;                 // not empty: this document cannot be used, and why
  std::string context;               // text, unless tokenised
  std::vector<std::string> queries;  // at least one question
  std::string answer_prefix;         // text that every answer begins with; may be empty
  bool tokenised = false;
  std::vector<std::int32_t> context_tokens;  // not negative; the model's vocabulary is not checked here
  std::vector<std::vector<std::int32_t>> query_tokens;
  std::optional<int> max_new_tokens;
  std::string metadata = "{}";  // the line's other fields, a JSON object
};

/// Id of the result of a document's question, from 0: the document's own, then "ID#2", "ID#3", ...
std::string question_id(const std::string& document_id, int question);

/// A JSON Lines file. Ids and places are kept in memory, texts are read one at a time; the file must stay unchanged.
class DocumentFile {
 public:
  /// Reads the whole file once. Blank lines are skipped. Fails where the file cannot be read, has no documents, or has
  /// an id twice; lines that cannot be used are no failure here.
  static DocumentFile open(const std::filesystem::path& file);

  int size() const { return static_cast<int>(entries_.size()); }

  /// Text or number of the line's "id", "line-N" where there is none or the line cannot be parsed.
  const std::string& id(int index) const { return entries_.at(static_cast<std::size_t>(index)).id; }

  /// Questions that the line asks, 1 for a line that is no document.
  int questions(int index) const { return entries_.at(static_cast<std::size_t>(index)).questions; }

  /// All documents, those of the longest lines first.
  std::vector<int> longest_first() const;

  /// Document.error tells whether the line can be used. Fails only where the file has changed.
  Document read(int index) const;

 private:
  struct Entry {
    std::string id;
    std::string error;        // why the line is no document at all
    std::int64_t line = 0;    // from 1
    std::int64_t offset = 0;  // bytes from the start of the file
    std::size_t bytes = 0;
    int questions = 1;
  };

  explicit DocumentFile(std::filesystem::path file) : file_(std::move(file)) {}
  void check_ids() const;

  std::filesystem::path file_;
  std::vector<Entry> entries_;
};

/// The whole text file as context, the file's name as id. Fails where the file is missing, empty or not UTF-8, or the
/// question is empty or not UTF-8 (wrong usage).
Document document_from_text_file(const std::filesystem::path& file, const std::string& question);

}  // namespace apb
