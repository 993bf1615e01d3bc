// What tasks are made from: words, prose, and questions with their documents; the user's files or our own.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace apb {

/// The user's files; empty: our own where we have some.
struct TaskFiles {
  std::filesystem::path words;
  std::filesystem::path essays;
  std::filesystem::path squad;
  std::filesystem::path hotpotqa;
};

/// Adjectives and nouns, sorted and without repetition.
struct WordLists {
  std::vector<std::string> adjectives;
  std::vector<std::string> nouns;
};

/// One word a line: letters only, made lower case. Both lists are the file's words. Without a file (empty path) our
/// own. Fails where the file has fewer than 1000 words, or a line is no word.
WordLists read_words(const std::filesystem::path& file);

/// Sentences of prose, white space made single spaces. `path` is a text file, a folder of them (read in the order of
/// their names), or JSON with the prose in its field "text"; empty: a public-domain text that comes with the program.
/// Fails where there are fewer than 100 sentences.
std::vector<std::string> read_essays(const std::filesystem::path& path);

/// Questions about documents.
struct QuestionSet {
  struct Question {
    std::string text;
    std::vector<std::string> answers;    // without repetition, at least one
    std::vector<std::size_t> documents;  // that come with the question, in ascending order
    std::vector<std::size_t> evidence;   // those of them that hold the answer
    std::vector<std::size_t> related;    // others about the same subject
  };
  std::vector<std::string> documents;  // sorted, without repetition
  std::vector<Question> questions;
};

/// The JSON files as SQuAD (1.1 and 2.0) and HotpotQA (distractor setting) publish them. Questions without an answer
/// are left out. Fails with file and field.
QuestionSet read_squad(const std::filesystem::path& file);
QuestionSet read_hotpotqa(const std::filesystem::path& file);

/// Our own lists (builtin_words.cpp), words separated by spaces; and the text of data/samples/hacker_culture.txt.
extern const std::string_view builtin_adjectives;
extern const std::string_view builtin_nouns;
extern const std::string_view builtin_essay;

}  // namespace apb
