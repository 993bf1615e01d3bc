#include "input/documents.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "expect_error.hpp"
#include "temporary_folder.hpp"

namespace apb {
namespace {

using nlohmann::json;

class DocumentsTest : public testing::Test {
 protected:
  DocumentFile open(const std::string& contents) const {
    return DocumentFile::open(folder_.write("documents.jsonl", contents));
  }

  // The one line of a file.
  Document read(const std::string& line) const { return open(line).read(0); }

  void expect_line_error(const std::string& line, const std::vector<std::string>& parts) const {
    SCOPED_TRACE(line.substr(0, 200));
    const Document document = read(line + "\n");
    EXPECT_NE(document.error.find("line 1: "), std::string::npos) << document.error;
    EXPECT_EQ(document.error.find('\n'), std::string::npos) << document.error;
    EXPECT_LT(document.error.size(), 200U) << document.error;
    for (const auto& part : parts) {
      EXPECT_NE(document.error.find(part), std::string::npos) << "no \"" << part << "\" in: " << document.error;
    }
  }

  TemporaryFolder folder_;
};

const std::string good = R"({"id": "good", "context": "A long text.", "query": "What?"})";

TEST_F(DocumentsTest, ReadsTextTokensAndMetadata) {
  const auto file = open(R"({"id": "text", "context": "Grüße, 你好 😀\n", "query": "Qué?", "max_new_tokens": 3,)"
                         R"( "answer": ["x", 1.5], "depth": null})"
                         "\n"
                         R"({"id": "ids", "context_tokens": [0, 2147483647, 5], "query_tokens": [7]})");
  ASSERT_EQ(file.size(), 2);
  const Document text = file.read(0);
  EXPECT_EQ(text.error, "");
  EXPECT_EQ(text.id, "text");
  EXPECT_EQ(text.line, 1);
  EXPECT_FALSE(text.tokenised);
  EXPECT_EQ(text.context, "Grüße, 你好 😀\n");
  EXPECT_EQ(text.queries, std::vector<std::string>{"Qué?"});
  EXPECT_EQ(text.max_new_tokens, 3);
  EXPECT_EQ(json::parse(text.metadata), (json{{"answer", {"x", 1.5}}, {"depth", nullptr}}));

  const Document ids = file.read(1);
  EXPECT_EQ(ids.error, "");
  EXPECT_EQ(ids.id, "ids");
  EXPECT_EQ(ids.line, 2);
  EXPECT_TRUE(ids.tokenised);
  EXPECT_EQ(ids.context_tokens, (std::vector<std::int32_t>{0, 2147483647, 5}));
  EXPECT_EQ(ids.query_tokens, std::vector<std::vector<std::int32_t>>{{7}});
  EXPECT_EQ(ids.max_new_tokens, std::nullopt);
  EXPECT_EQ(ids.metadata, "{}");
}

TEST_F(DocumentsTest, AnswerPrefix) {
  EXPECT_EQ(read(good).answer_prefix, "");
  EXPECT_EQ(read(R"({"context": "c", "query": "q", "answer_prefix": null})").answer_prefix, "");
  const Document document = read(R"({"context": "c", "query": "q", "answer_prefix": " It is ", "depth": 3})");
  EXPECT_EQ(document.error, "");
  EXPECT_EQ(document.answer_prefix, " It is ");
  EXPECT_EQ(document.metadata, R"({"depth":3})");
  expect_line_error(R"({"context": "c", "query": "q", "answer_prefix": 7})", {"answer_prefix is 7", "string"});
  expect_line_error(R"({"context": "c", "query": "q", "answer_prefix": ""})", {"answer_prefix is empty"});
  expect_line_error(R"({"context_tokens": [1], "query_tokens": [2], "answer_prefix": "a"})",
                    {"answer_prefix", "text", "query_tokens"});
}

TEST_F(DocumentsTest, IdsAreTextOrNumbersOrLines) {
  const auto file = open(R"({"id": "x/1", "query": "id"})"
                         "\n\n \t\r\n"
                         R"({"meta": {"id": "inner"}, "id": 42})"
                         "\n"
                         R"({"id": 1.5})"
                         "\n"
                         R"({"context": "c", "query": "q"})"
                         "\n"
                         R"({"id": null})"
                         "\n"
                         R"({"id": "lost", "context)"
                         "\n"
                         R"({"id": ["list"]})"
                         "\n"
                         R"({"id": -3})");
  std::vector<std::string> ids;
  for (int i = 0; i < file.size(); ++i) {
    ids.push_back(file.id(i));
    EXPECT_EQ(file.read(i).id, file.id(i));
  }
  EXPECT_EQ(ids, (std::vector<std::string>{"x/1", "42", "1.5", "line-6", "line-7", "line-8", "line-9", "-3"}));
  EXPECT_EQ(file.read(1).line, 4);
  EXPECT_EQ(file.read(3).error, "");
}

TEST_F(DocumentsTest, ByteOrderMarkCrLfAndLastLineWithoutEnd) {
  const auto file = open("\xEF\xBB\xBF" + good + "\r\n\r\n" + R"({"context": "c", "query": "q"})" + "\r");
  ASSERT_EQ(file.size(), 2);
  EXPECT_EQ(file.read(0).context, "A long text.");
  EXPECT_EQ(file.read(1).context, "c");
  EXPECT_EQ(file.read(1).id, "line-3");
}

TEST_F(DocumentsTest, LongLinesAreReadFromTheirPlace) {
  std::string contents;
  for (int i = 0; i < 50; ++i) {
    const std::string text(static_cast<std::size_t>(1 + i * 997), static_cast<char>('a' + i % 26));
    contents += json{{"id", i}, {"context", text}, {"query", "q"}}.dump() + std::string(1 + i % 3, '\n');
  }
  const auto file = open(contents);
  ASSERT_EQ(file.size(), 50);
  for (const int i : {49, 0, 31}) {
    EXPECT_EQ(file.read(i).context,
              std::string(static_cast<std::size_t>(1 + i * 997), static_cast<char>('a' + i % 26)));
  }
}

TEST_F(DocumentsTest, ABadLineFailsAlone) {
  const auto file = open("{broken\n" + good + "\n");
  ASSERT_EQ(file.size(), 2);
  EXPECT_NE(file.read(0).error, "");
  EXPECT_EQ(file.read(1).error, "");
  EXPECT_EQ(file.read(1).context, "A long text.");
}

TEST_F(DocumentsTest, LinesThatAreNoDocument) {
  expect_line_error("{broken", {"not valid JSON", "column"});
  expect_line_error(R"({"context": ")" + std::string(100000, 'x'), {"not valid JSON"});
  expect_line_error("[1, 2]", {"array", "object"});
  expect_line_error("{} {}", {"not valid JSON"});
  expect_line_error("{\"context\": \"caf\xE9\", \"query\": \"q\"}", {"not UTF-8 at byte 16"});
  expect_line_error(R"({"a": )" + std::string(100000, '[') + std::string(100000, ']') + "}", {"nested", "100"});
  expect_line_error(R"({"id": true})", {"field id is true", "string or a number"});
  expect_line_error(R"({"id": ""})", {"field id is \"\""});
  expect_line_error(R"({"id": "a\u0000b"})", {"field id is", "NUL"});
  expect_line_error(R"({"id": 1e999})", {"not valid JSON"});
}

TEST_F(DocumentsTest, MissingFields) {
  expect_line_error(R"({"context": "c"})", {"field query is missing"});
  expect_line_error(R"({"context": "c", "query": null})", {"field query is missing"});
  expect_line_error(R"({"query": "q"})", {"field context is missing"});
  expect_line_error(R"({"context_tokens": [1]})", {"field query_tokens is missing"});
  expect_line_error(R"({"query_tokens": [1]})", {"field context_tokens is missing"});
}

TEST_F(DocumentsTest, WrongFields) {
  expect_line_error(R"({"context": "", "query": "q"})", {"field context is empty"});
  expect_line_error(R"({"context": "c", "query": ""})", {"field query is empty"});
  expect_line_error(R"({"context_tokens": [], "query_tokens": [1]})", {"field context_tokens is empty"});
  expect_line_error(R"({"context": 3, "query": "q"})", {"field context is 3", "string"});
  expect_line_error(R"({"context": "c", "query": ["q"]})", {R"(field query is ["q"])", "string"});
  expect_line_error(R"({"context": "c", "queries": []})", {"field queries is []", "list of questions"});
  expect_line_error(R"({"context": "c", "queries": "q"})", {"field queries is", "list of questions"});
  expect_line_error(R"({"context": "c", "queries": ["q", 3]})", {"field queries is 3", "string"});
  expect_line_error(R"({"context": "c", "query": "q", "queries": ["q"]})", {"both query and queries"});
  expect_line_error(R"({"context_tokens": "1 2", "query_tokens": [1]})", {R"(context_tokens is "1 2")", "list"});
  expect_line_error(R"({"context_tokens": [1, -2], "query_tokens": [1]})", {"context_tokens has -2 at index 1"});
  expect_line_error(R"({"context_tokens": [1], "query_tokens": [1.5]})", {"query_tokens has 1.5 at index 0"});
  expect_line_error(R"({"context_tokens": [2147483648], "query_tokens": [1]})", {"context_tokens has 2147483648"});
  expect_line_error(R"({"context": "c", "query": "q", "query_tokens": [1]})", {"both text and tokens"});
  expect_line_error(R"({"context_tokens": [1], "query": "q"})", {"both text and tokens"});
  for (const char* value : {"0", "-1", "1.5", "\"9\"", "2147483648"}) {
    expect_line_error(std::string(R"({"context": "c", "query": "q", "max_new_tokens": )") + value + "}",
                      {std::string("max_new_tokens is ") + value, "integer from 1"});
  }
  expect_line_error(R"({"query": "q", "context": [")" + std::string(100000, 'x') + "\"]}", {"field context is", "..."});
}

TEST_F(DocumentsTest, MetadataOfALineThatFailsIsKept) {
  EXPECT_EQ(read(R"({"context": "", "query": "q", "depth": 50})").metadata, R"({"depth":50})");
}

TEST_F(DocumentsTest, DuplicateIds) {
  expect_error([&] { open(good + "\n\n" + good + "\n"); }, {"documents.jsonl", "lines 1 and 3", "\"good\""});
  expect_error([&] { open("{\"id\": \"7\"}\n{\"id\": 7}\n"); }, {"lines 1 and 2", "\"7\""});
  expect_error([&] { open("{\"id\": \"line-2\"}\n{}\n"); }, {"lines 1 and 2", "\"line-2\""});
}

TEST_F(DocumentsTest, FilesThatCannotBeUsed) {
  expect_error([&] { DocumentFile::open(folder_.path() / "none.jsonl"); },
               {"none.jsonl", "cannot be opened", "No such file"});
  expect_error([&] { DocumentFile::open(folder_.path()); }, {folder_.path().string(), "is a folder"});
  expect_error([&] { DocumentFile::open("/dev/null"); }, {"/dev/null", "no regular file"});
  expect_error([&] { open(""); }, {"documents.jsonl", "no documents"});
  expect_error([&] { open("\n \r\n"); }, {"documents.jsonl", "no documents"});
}

TEST_F(DocumentsTest, AFileThatChangesDuringTheRun) {
  const auto file = open(good + "\n" + R"({"context": "c", "query": "q"})");
  folder_.write("documents.jsonl", good + "\n");
  EXPECT_EQ(file.read(0).error, "");
  expect_error([&] { file.read(1); }, {"documents.jsonl", "line 2", "changed"});
}

TEST_F(DocumentsTest, TextFileAndQuestion) {
  const auto file = folder_.write("book.txt", "\xEF\xBB\xBFIt was\r\nlate.\n");
  const Document document = document_from_text_file(file, "When?");
  EXPECT_EQ(document.id, "book.txt");
  EXPECT_EQ(document.error, "");
  EXPECT_EQ(document.context, "It was\r\nlate.\n");
  EXPECT_EQ(document.queries, std::vector<std::string>{"When?"});
  EXPECT_EQ(document.metadata, "{}");
  EXPECT_FALSE(document.tokenised);
}

TEST_F(DocumentsTest, TextFilesThatCannotBeUsed) {
  const auto ask = [&](const std::string& contents) {
    document_from_text_file(folder_.write("book.txt", contents), "When?");
  };
  expect_error([&] { ask(""); }, {"book.txt", "empty"});
  expect_error([&] { ask("\xEF\xBB\xBF"); }, {"book.txt", "empty"});
  expect_error([&] { ask("fine until \xC3("); }, {"book.txt", "not UTF-8 at byte 11"});
  expect_error([&] { document_from_text_file(folder_.path() / "none.txt", "When?"); },
               {"none.txt", "cannot be opened", "No such file"});
  expect_error([&] { document_from_text_file(folder_.path(), "When?"); }, {"is a folder"});
  const auto file = folder_.write("book.txt", "text");
  expect_error([&] { document_from_text_file(file, ""); }, {"--question", "empty"}, ExitCode::wrong_usage);
  expect_error([&] { document_from_text_file(file, "W\xFF"); }, {"--question", "byte 1"}, ExitCode::wrong_usage);
}

}  // namespace
}  // namespace apb
