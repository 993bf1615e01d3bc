// GoogleTest under MPI: every rank runs every test; the failures of all ranks go into one report,
// and every rank exits with the worst result.
#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace {

class FailureCollector : public testing::EmptyTestEventListener {
 public:
  const std::string& report() const { return report_; }

 private:
  // GoogleTest holds its lock while it tells of a failure, so the test's name is not asked for then.
  void OnTestStart(const testing::TestInfo& test) override {
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    report_ += test_ + " " + (result.file_name() ? result.file_name() : "") + ":" +
               std::to_string(result.line_number()) + "\n" + result.message() + "\n";
  }
  std::string test_;
  std::string report_;
};

void print_reports(const std::string& own) {
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int length = static_cast<int>(own.size());
  std::vector<int> lengths(static_cast<std::size_t>(size));
  MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, MPI_COMM_WORLD);
  if (rank != 0) {
    MPI_Send(own.data(), length, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
    return;
  }
  for (int r = 1; r < size; ++r) {
    std::string text(static_cast<std::size_t>(lengths[static_cast<std::size_t>(r)]), ' ');
    MPI_Recv(text.data(), static_cast<int>(text.size()), MPI_CHAR, r, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (!text.empty()) std::printf("[rank %d] %s", r, text.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) delete listeners.Release(listeners.default_result_printer());
  auto* collector = new FailureCollector;
  listeners.Append(collector);

  int result = RUN_ALL_TESTS();
  if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) result = 1;
  print_reports(collector->report());
  MPI_Allreduce(MPI_IN_PLACE, &result, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return result;
}
