#include "output/document_key.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "rows.hpp"

namespace apb {
namespace {

std::string key_of(const std::vector<std::string_view>& pieces) { return document_key(pieces); }

TEST(DocumentKey, ChangesWithEveryPieceAndWithWhereOneEnds) {
  const std::set<std::string> keys = {key_of({}),          key_of({""}),        key_of({"", ""}),
                                      key_of({"ab", "c"}), key_of({"a", "bc"}), key_of({"abc"}),
                                      key_of({"c", "ab"}), key_of({"ab", "d"}), key_of({"ab", "c", ""})};
  EXPECT_EQ(keys.size(), 9U);
  EXPECT_EQ(key_of({"ab", "c"}), key_of({"ab", "c"}));
  for (const auto& key : keys) EXPECT_EQ(key.find_first_not_of("0123456789abcdef"), std::string::npos);
}

TEST(DocumentKey, IsTheXxh3HashOfLengthsAndPieces) {
  // From the Python package xxhash: of no bytes, and of 2 in 8 bytes, then "ab".
  EXPECT_EQ(key_of({}), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(key_of({"ab"}), "25a212f2233721086f8c63c1ad107f4b");
}

TEST(Fingerprint, SeesSizeStartEndAndOrder) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return folder / name;
  };
  std::string bytes(6'300'001, 'x');
  const auto fingerprint = [&](const std::string& content) {
    const std::vector<std::filesystem::path> files = {write("a", content), write("b", "tokenizer")};
    return fingerprint_files(files);
  };
  const auto original = fingerprint(bytes);
  EXPECT_EQ(fingerprint(bytes), original);
  for (const std::size_t place : {std::size_t{0}, std::size_t{1'000'000}, bytes.size() - 1}) {
    auto changed = bytes;
    changed[place] = 'y';
    EXPECT_NE(fingerprint(changed), original) << place;
  }
  EXPECT_NE(fingerprint(bytes + "x"), original);

  const std::vector<std::filesystem::path> swapped = {write("b", "tokenizer"), write("a", bytes)};
  EXPECT_NE(fingerprint_files(swapped), original);
}

TEST(Fingerprint, ReadsAllOfSmallFiles) {
  const TemporaryFolder folder;
  const std::vector<std::filesystem::path> files = {folder / "a"};
  std::set<std::string> seen;
  for (const std::size_t size : {0U, 1U, 1'048'576U, 1'048'577U, 3'000'000U}) {
    for (const char end : {'x', 'y'}) {
      std::string bytes(size, 'x');
      if (!bytes.empty()) bytes[size / 2] = end;
      std::ofstream(folder / "a", std::ios::binary) << bytes;
      seen.insert(fingerprint_files(files));
    }
  }
  EXPECT_EQ(seen.size(), 9U);
}

TEST(Fingerprint, NamesAFileThatCannotBeRead) {
  const TemporaryFolder folder;
  const std::vector<std::filesystem::path> files = {folder / "missing"};
  const auto message = error_of([&] { fingerprint_files(files); });
  EXPECT_EQ(message, (folder / "missing").string() + ": cannot be read");
}

}  // namespace
}  // namespace apb
