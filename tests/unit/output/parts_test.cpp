// Outputs that are begun, interrupted, resumed, refused and replaced.
#include "output/parts.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "error.hpp"
#include "rows.hpp"

namespace apb {
namespace {

using namespace testing_output;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

constexpr milliseconds at_once{0};
constexpr milliseconds never = std::chrono::hours(100);

class Parts : public testing::Test {
 protected:
  ResultsWriter open(OpenMode mode, milliseconds part_interval = at_once, const SavedArrays& saved = everything,
                     int group = 0, int groups = 1) {
    return {
        {.file = file_, .mode = mode, .saved = saved, .group = group, .groups = groups, .part_interval = part_interval},
        make_info()};
  }

  /// A run that commits these rows and dies: parts, a half-written part, a half-written file, and the lock stay.
  void interrupted_run(OpenMode mode, const std::vector<ResultRow>& rows) {
    {
      auto writer = open(mode);
      for (const auto& row : rows) writer.commit({row});
    }
    fs::create_directory(parts_);
    std::ofstream(parts_ / "part-000099.h5.tmp") << "half a part";
    std::ofstream(file_.string() + ".tmp") << "half a file";
    std::ofstream(parts_ / "lock") << host() << " 2000000000 17 - 0\n";
  }

  void complete_run(const std::vector<ResultRow>& rows) {
    auto writer = open(OpenMode::refuse_existing);
    for (const auto& row : rows) writer.commit({row});
    writer.finish(ids_of({.info = {}, .saved = {}, .rows = rows}));
  }

  static std::string host() {
    std::array<char, 256> name{};
    gethostname(name.data(), name.size() - 1);
    return name.data();
  }

  int part_count() const {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(parts_)) count += entry.path().extension() == ".h5" ? 1 : 0;
    return count;
  }

  TemporaryFolder folder_;
  fs::path file_ = folder_ / "out.h5";
  fs::path parts_ = folder_ / "out.h5.parts";
};

TEST_F(Parts, EachPartIsACompleteFileAndTheMergeHoldsAllRowsInOrder) {
  const std::vector<ResultRow> rows = {ok_row("a", 1), ok_row("b", 2), failed_row("c"), ok_row("d", 4)};
  auto writer = open(OpenMode::refuse_existing);
  EXPECT_TRUE(writer.finished_keys().empty());
  for (const auto i : {2U, 0U, 3U, 1U}) writer.commit({rows[i]});
  expect_same(read_results(parts_ / "part-000001.h5").rows.at(0), rows[2]);
  expect_same(read_results(parts_ / "part-000003.h5").rows.at(0), rows[3]);
  EXPECT_FALSE(fs::exists(file_));

  writer.finish({"a", "b", "x"});
  const auto results = read_results(file_);
  EXPECT_EQ(ids_of(results), (std::vector<std::string>{"a", "b", "c", "d"}));
  for (std::size_t i = 0; i < rows.size(); ++i) expect_same(results.rows[i], rows[i]);
  EXPECT_EQ(results.saved, everything);
  EXPECT_EQ(part_count(), 0);
}

TEST_F(Parts, NothingButTheFileIsLeftAfterARun) {
  complete_run({ok_row("a", 1)});
  EXPECT_TRUE(fs::exists(file_));
  EXPECT_FALSE(fs::exists(parts_));
  EXPECT_FALSE(fs::exists(file_.string() + ".tmp"));
}

TEST_F(Parts, QuickDocumentsShareAPart) {
  auto writer = open(OpenMode::refuse_existing, never);
  writer.commit({ok_row("a", 1)});
  writer.commit({ok_row("b", 2)});
  EXPECT_EQ(part_count(), 0);
  writer.flush();
  EXPECT_EQ(part_count(), 1);
  EXPECT_EQ(read_results(parts_ / "part-000001.h5").rows.size(), 2U);
  writer.flush();
  EXPECT_EQ(part_count(), 1);
  writer.commit({ok_row("c", 3)});
  writer.finish({});
  EXPECT_EQ(ids_of(read_results(file_)), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(Parts, RowsOfADocumentStayTogether) {
  auto writer = open(OpenMode::refuse_existing, at_once);
  writer.commit({ok_row("a", 1), ok_row("a#2", 2), ok_row("a#3", 3)});
  EXPECT_EQ(part_count(), 1);
  EXPECT_EQ(ids_of(read_results(parts_ / "part-000001.h5")), (std::vector<std::string>{"a", "a#2", "a#3"}));
}

TEST_F(Parts, ARowThatIsCheckedLaterReplacesTheOneThatWaits) {
  ResultRow checked = ok_row("a", 1);
  checked.drift = {.largest_logit_difference = 0.5F, .first_differing_token = 3};
  ResultRow unchecked = checked;
  unchecked.drift.reset();
  {
    auto writer = open(OpenMode::refuse_existing, never);
    writer.commit({unchecked});
    writer.commit({ok_row("b", 2)});
    writer.commit({checked});
    EXPECT_TRUE(writer.earlier_drifts().empty());
    writer.flush();
  }
  EXPECT_EQ(ids_of(read_results(parts_ / "part-000001.h5")), (std::vector<std::string>{"b", "a"}));
  auto writer = open(OpenMode::resume);
  EXPECT_EQ(writer.earlier_drifts().at("key-of-a"), *checked.drift);
  EXPECT_EQ(writer.finish({"a", "b"}).answers, 1);
  expect_same(read_results(file_).rows.at(0), checked);
}

TEST_F(Parts, DriftOfARowThatWasAnsweredAnewDoesNotCount) {
  ResultRow a = ok_row("a", 1);
  ResultRow b = ok_row("b", 2);
  a.drift = {.largest_logit_difference = 0.5F, .first_differing_token = 3};
  b.drift = {.largest_logit_difference = 0.25F};
  interrupted_run(OpenMode::refuse_existing, {a, b});
  a.key = "another";
  a.drift.reset();
  auto writer = open(OpenMode::resume);
  writer.commit({a});
  const DriftSummary drifts = writer.finish({"a", "b"});
  EXPECT_EQ(drifts.answers, 1);
  EXPECT_EQ(drifts.equal, 1);
  EXPECT_EQ(drifts.largest, 0.25F);
}

TEST_F(Parts, AnInterruptedRunIsResumed) {
  interrupted_run(OpenMode::refuse_existing, {ok_row("a", 1), failed_row("b"), ok_row("c", 3)});
  {
    auto writer = open(OpenMode::resume);
    EXPECT_EQ(writer.finished_keys(), (std::unordered_set<std::string>{"key-of-a", "key-of-c"}));
    EXPECT_FALSE(fs::exists(parts_ / "part-000099.h5.tmp"));
    EXPECT_FALSE(fs::exists(file_.string() + ".tmp"));
    writer.commit({ok_row("b", 2)});
    EXPECT_TRUE(fs::exists(parts_ / "part-000004.h5"));
    writer.finish({"a", "b", "c"});
  }
  const auto results = read_results(file_);
  ASSERT_EQ(ids_of(results), (std::vector<std::string>{"a", "b", "c"}));
  expect_same(results.rows[1], ok_row("b", 2));
  EXPECT_FALSE(fs::exists(parts_));
}

TEST_F(Parts, AFinishedFileIsResumed) {
  complete_run({ok_row("a", 1), failed_row("b")});
  auto writer = open(OpenMode::resume);
  EXPECT_EQ(writer.finished_keys(), (std::unordered_set<std::string>{"key-of-a"}));
  writer.commit({failed_row("b", "failed again")});
  writer.commit({ok_row("c", 3)});
  writer.finish({"c", "b", "a"});
  const auto results = read_results(file_);
  ASSERT_EQ(ids_of(results), (std::vector<std::string>{"c", "b", "a"}));
  EXPECT_EQ(results.rows[1].message, "failed again");
  expect_same(results.rows[2], ok_row("a", 1));
}

TEST_F(Parts, ResumingWhatNeverBeganBeginsIt) {
  auto writer = open(OpenMode::resume);
  EXPECT_TRUE(writer.finished_keys().empty());
  writer.finish({});
  EXPECT_EQ(read_results(file_).rows.size(), 0U);
}

TEST_F(Parts, RowsInBothFileAndPartsCountOnce) {
  interrupted_run(OpenMode::refuse_existing, {ok_row("a", 1), ok_row("b", 2)});
  fs::copy(parts_, folder_ / "copy");
  { open(OpenMode::resume).finish({"a", "b"}); }
  // As if the process had died between renaming the file and removing the parts.
  fs::copy(folder_ / "copy", parts_);
  auto writer = open(OpenMode::resume);
  EXPECT_EQ(writer.finished_keys().size(), 2U);
  writer.finish({"a", "b"});
  EXPECT_EQ(ids_of(read_results(file_)), (std::vector<std::string>{"a", "b"}));
}

TEST_F(Parts, TheNewestRowOfAnIdCountsButAFailureDoesNotReplaceItsSuccess) {
  auto other_options = failed_row("b");
  other_options.key = "key-with-other-options";
  complete_run({ok_row("a", 1), ok_row("b", 2), ok_row("c", 3)});
  auto newer = ok_row("c", 4);
  newer.key = "key-with-other-options-of-c";
  interrupted_run(OpenMode::resume, {failed_row("a"), other_options, newer});
  auto writer = open(OpenMode::resume);
  EXPECT_EQ(writer.finished_keys(), (std::unordered_set<std::string>{"key-of-a", newer.key}));
  writer.finish({"a", "b", "c"});
  const auto results = read_results(file_);
  expect_same(results.rows.at(0), ok_row("a", 1));
  expect_same(results.rows.at(1), other_options);
  expect_same(results.rows.at(2), newer);
}

TEST_F(Parts, AnExistingOutputIsRefused) {
  const auto refused = [&](const fs::path& what) {
    const auto message = error_of([&] { open(OpenMode::refuse_existing); });
    EXPECT_EQ(message, what.string() + " exists already; go on with it with --resume or replace it with --overwrite");
  };
  interrupted_run(OpenMode::refuse_existing, {ok_row("a", 1)});
  refused(parts_);
  fs::remove(parts_ / "part-000001.h5");
  refused(parts_);
  fs::remove_all(parts_);
  fs::create_directory(parts_);
  complete_run({ok_row("a", 1)});
  const auto before = bytes_of(file_);
  refused(file_);
  EXPECT_EQ(bytes_of(file_), before);
}

TEST_F(Parts, OverwritingKeepsTheOldFileUntilTheEnd) {
  complete_run({ok_row("old", 1)});
  const auto before = bytes_of(file_);
  interrupted_run(OpenMode::resume, {ok_row("old-part", 2)});
  auto writer = open(OpenMode::overwrite);
  EXPECT_TRUE(writer.finished_keys().empty());
  EXPECT_EQ(part_count(), 0);
  EXPECT_EQ(bytes_of(file_), before);
  writer.commit({ok_row("new", 3)});
  EXPECT_EQ(bytes_of(file_), before);
  writer.finish({});
  EXPECT_EQ(ids_of(read_results(file_)), (std::vector<std::string>{"new"}));
}

TEST_F(Parts, AnInterruptedOverwriteGoesOnWithoutTheOldFile) {
  complete_run({ok_row("old", 1)});
  interrupted_run(OpenMode::overwrite, {ok_row("new", 2)});
  {
    auto writer = open(OpenMode::resume);
    EXPECT_EQ(writer.finished_keys(), (std::unordered_set<std::string>{"key-of-new"}));
    writer.commit({ok_row("more", 3)});
    writer.finish({});
  }
  EXPECT_EQ(ids_of(read_results(file_)), (std::vector<std::string>{"new", "more"}));
  EXPECT_FALSE(fs::exists(parts_));
}

TEST_F(Parts, AnOverwriteThatGotNowhereLeavesTheOldFile) {
  complete_run({ok_row("old", 1)});
  { open(OpenMode::overwrite); }
  EXPECT_FALSE(fs::exists(parts_));
  EXPECT_EQ(open(OpenMode::resume).finished_keys().size(), 1U);
}

TEST_F(Parts, ADamagedPartIsNamed) {
  interrupted_run(OpenMode::refuse_existing, {ok_row("a", 1), ok_row("b", 2)});
  fs::resize_file(parts_ / "part-000002.h5", 1000);
  const auto message = error_of([&] { open(OpenMode::resume); });
  EXPECT_NE(message.find("part-000002.h5: cannot"), std::string::npos) << message;
  EXPECT_NE(message.find("delete this part"), std::string::npos) << message;
  EXPECT_FALSE(fs::exists(parts_ / "lock"));
  fs::remove(parts_ / "part-000002.h5");
  EXPECT_EQ(open(OpenMode::resume).finished_keys().size(), 1U);
}

TEST_F(Parts, ResumingWithOtherArraysIsRefused) {
  interrupted_run(OpenMode::refuse_existing, {ok_row("a", 1)});
  const auto message = error_of([&] { open(OpenMode::resume, at_once, {.vocabulary = 0, .selection = true}); });
  EXPECT_NE(message.find("holds logits of 11 tokens and selection, this run saves no logits and selection"),
            std::string::npos)
      << message;
}

TEST_F(Parts, AFolderThatCannotBeWrittenIsSaidBeforeAnyWork) {
  std::ofstream(folder_ / "plain") << "a file";
  for (const auto& file : {folder_ / "plain" / "out.h5", folder_ / "missing" / "out.h5", fs::path("/proc/out.h5")}) {
    for (const auto mode : {OpenMode::refuse_existing, OpenMode::overwrite, OpenMode::resume}) {
      const auto message = error_of([&] { ResultsWriter({.file = file, .mode = mode, .saved = {}}, make_info()); });
      EXPECT_NE(message.find(file.string() + ".parts: cannot be made"), std::string::npos) << message;
    }
  }
  const auto message = error_of([&] { ResultsWriter({.file = folder_ / "", .saved = {}}, make_info()); });
  EXPECT_NE(message.find("exists already"), std::string::npos) << message;
}

/// Lets no file grow past a size, as if the disk were full, while it lives.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : old_handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &old_);
    signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

TEST_F(Parts, AFullDiskDamagesNothing) {
  complete_run({ok_row("a", 1)});
  const auto before = bytes_of(file_);
  {
    auto writer = open(OpenMode::resume, never);
    writer.commit({ok_row("b", 2)});
    writer.flush();
    writer.commit({ok_row("c", 3)});
    const auto message = error_of([&] {
      const FullDisk full(1000);
      writer.flush();
    });
    EXPECT_NE(message.find("part-000002.h5: cannot write"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_FALSE(fs::exists(parts_ / "part-000002.h5.tmp"));
    const auto at_end = error_of([&] {
      const FullDisk full(1000);
      writer.finish({});
    });
    EXPECT_NE(at_end.find("out.h5: cannot write"), std::string::npos) << at_end;
  }
  EXPECT_EQ(bytes_of(file_), before);
  EXPECT_FALSE(fs::exists(file_.string() + ".tmp"));
  auto writer = open(OpenMode::resume);
  EXPECT_EQ(writer.finished_keys(), (std::unordered_set<std::string>{"key-of-a", "key-of-b"}));
  writer.finish({});
  EXPECT_EQ(read_results(file_).rows.size(), 2U);
}

TEST_F(Parts, ALiveLockIsRespected) {
  const auto writer = open(OpenMode::refuse_existing);
  for (const auto mode : {OpenMode::resume, OpenMode::overwrite}) {
    const auto message = error_of([&] { open(mode); });
    EXPECT_NE(message.find((parts_ / "lock").string()), std::string::npos) << message;
    EXPECT_NE(message.find("process " + std::to_string(getpid()) + " on host " + host()), std::string::npos) << message;
  }
  EXPECT_TRUE(fs::exists(parts_ / "lock"));
}

TEST_F(Parts, ALockOfAnotherHostIsRespectedButNotThatOfARequeuedJob) {
  fs::create_directory(parts_);
  std::ofstream(parts_ / "lock") << "elsewhere 123 17 4711 0\n";
  unsetenv("SLURM_JOB_ID");
  const auto message = error_of([&] { open(OpenMode::resume); });
  EXPECT_NE(message.find("process 123 on host elsewhere"), std::string::npos) << message;
  EXPECT_NE(message.find("delete this file"), std::string::npos) << message;

  setenv("SLURM_JOB_ID", "4711", 1);
  error_of([&] { open(OpenMode::resume); });
  setenv("SLURM_RESTART_COUNT", "1", 1);
  { open(OpenMode::resume); }
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
}

TEST_F(Parts, ALockOfADeadProcessIsTakenOver) {
  // A process that is not there, and one with our number that began at another time.
  for (const auto& owner : {std::string("2000000000 17"), std::to_string(getpid()) + " 1"}) {
    fs::create_directory(parts_);
    std::ofstream(parts_ / "lock") << host() << " " << owner << " - 0\n";
    { open(OpenMode::resume); }
    EXPECT_FALSE(fs::exists(parts_));
  }
}

TEST_F(Parts, ALockOfAProcessThatNobodyHasWaitedForIsTakenOver) {
  std::array<int, 2> ready{};
  ASSERT_EQ(pipe(ready.data()), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto* const writer = new ResultsWriter(open(OpenMode::resume));  // never destroyed: a crash
    _exit(writer != nullptr && write(ready[1], "x", 1) == 1 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);  // ended, but still there
  EXPECT_TRUE(fs::exists(parts_ / "lock"));
  { open(OpenMode::resume); }
  EXPECT_FALSE(fs::exists(parts_));
  waitpid(child, nullptr, 0);
  for (const int end : ready) close(end);
}

TEST_F(Parts, GroupsCommitToTheSameFolderAndTheFirstMerges) {
  interrupted_run(OpenMode::refuse_existing, {ok_row("z", 9)});
  std::ofstream(parts_ / "lock-1") << host() << " 2000000000 17 - 0\n";
  auto first = open(OpenMode::resume, at_once, everything, 0, 2);
  EXPECT_FALSE(fs::exists(parts_ / "lock-1"));
  {
    auto second = open(OpenMode::resume, at_once, everything, 1, 2);
    EXPECT_EQ(second.finished_keys(), (std::unordered_set<std::string>{"key-of-z"}));
    for (const auto* id : {"b", "d"}) second.commit({ok_row(id, 2)});
    first.commit({ok_row("a", 1)});
    second.commit({ok_row("e", 5)});
    first.commit({ok_row("c", 3)});
    EXPECT_EQ(part_count(), 6);
    EXPECT_TRUE(fs::exists(parts_ / "lock-1"));
  }
  EXPECT_FALSE(fs::exists(parts_ / "lock-1"));
  first.finish({"a", "b", "c", "d", "e"});
  EXPECT_EQ(ids_of(read_results(file_)), (std::vector<std::string>{"a", "b", "c", "d", "e", "z"}));
}

TEST_F(Parts, ALiveLockOfAnotherGroupIsRespected) {
  fs::create_directory(parts_);
  std::ofstream(parts_ / "lock-3") << "elsewhere 123 17 4711 0\n";
  const auto message = error_of([&] { open(OpenMode::resume); });
  EXPECT_NE(message.find("lock-3: process 123 on host elsewhere"), std::string::npos) << message;
  EXPECT_FALSE(fs::exists(parts_ / "lock"));
}

TEST_F(Parts, TheRunThatAnOutputBeganWithIsFound) {
  EXPECT_FALSE(find_run(file_));
  auto info = make_info();
  info.options = "of the file";
  write_results(file_, info, {}, everything);
  fs::create_directory(parts_);
  for (const auto* number : {"000002", "000001"}) {
    info.options = std::string("of part ") + number;
    write_results(parts_ / ("part-" + std::string(number) + ".h5"), info, {}, everything);
  }
  EXPECT_EQ(find_run(file_)->options, "of the file");
  std::ofstream(parts_ / "overwriting").flush();
  EXPECT_EQ(find_run(file_)->options, "of part 000001");
  fs::remove(parts_ / "overwriting");
  fs::remove(file_);
  EXPECT_EQ(find_run(file_)->options, "of part 000001");
}

TEST_F(Parts, AForeignLockFileIsLeftAlone) {
  fs::create_directory(parts_);
  std::ofstream(parts_ / "lock") << "mine\n";
  const auto message = error_of([&] { open(OpenMode::resume); });
  EXPECT_NE(message.find("is not a lock of apb"), std::string::npos) << message;
  EXPECT_EQ(bytes_of(parts_ / "lock"), "mine\n");
}

}  // namespace
}  // namespace apb
