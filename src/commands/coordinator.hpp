// The side of a group's first rank: documents in, results out.
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/placement.hpp"
#include "comm/work_queue.hpp"
#include "commands/job.hpp"
#include "context/generate.hpp"
#include "context/work.hpp"
#include "error.hpp"
#include "input/documents.hpp"
#include "input/prompt_template.hpp"
#include "model/config.hpp"
#include "model/tokenizer.hpp"
#include "options.hpp"
#include "output/parts.hpp"
#include "output/progress.hpp"
#include "output/results.hpp"
#include "output/summary.hpp"

namespace apb {

/// What all ranks found out about a document.
struct DocumentResult {
  std::string error{};  // not empty: the document failed, and why
  std::optional<Partition> partition{};
  std::vector<Answer> answers{};          // of each question
  std::vector<double> phase_seconds{};    // [ranks_used, phases]
  std::vector<double> message_seconds{};  // [ranks_used]
  std::vector<Drift> drifts{};            // of each question, if the document was checked
  std::string check_error{};              // not empty: it could not be checked, and why
  double check_seconds = 0;
  PrefillCounts counts{};
  SelectionRecord selection{};  // if saved
};

/// What one group has done, or all of them.
struct JobTotals {
  std::int64_t done = 0;  // documents, with those that an earlier run has done
  std::int64_t failed = 0;
  DriftSummary drifts{};                // of what this run has checked
  std::vector<double> phase_seconds{};  // [ranks, phases], over all documents
};

/// The totals of all groups on the world's rank 0; ranks that no document used are left out. Collective over the world;
/// a group's own totals count on its first rank.
JobTotals gather_totals(const Placement& placement, const JobTotals& own);

class Coordinator {
 public:
  /// Opens input, tokenizer and output; throws Error before any work when one of them cannot be used. The group
  /// numbered 0 opens the output before the others do. Documents are taken from `queue`, which must outlive this.
  Coordinator(const RunOptions& options, const ModelConfig& config, RunInfo info, const Placement& placement,
              WorkQueue& queue);

  /// The name of the prompt template that documents in text get.
  std::string_view prompt_template() const { return template_name(template_); }

  /// The next document that needs work. Those that cannot be used are committed as failed, those already in the output
  /// are left out. The one behind it is read and tokenised meanwhile, by a thread that does not use MPI.
  std::optional<Job> next();

  /// Takes the result of the job that next() gave last.
  void commit(DocumentResult result);

  /// Writes what is done as a part; the document under way is left out.
  void close();

  const JobTotals& totals() const { return totals_; }

  /// For one group, when all are closed: merges the parts; prints what the run came to. The exit code tells whether
  /// documents failed.
  ExitCode finish(const JobTotals& all);

  /// Instead of finish(): says how to go on.
  ExitCode stop(const JobTotals& all) const;

 private:
  /// A document when it has been read: a job, or why there is none.
  struct Prepared {
    std::vector<ResultRow> rows;
    std::optional<Job> job{};
    std::string error{};    // why the document cannot be used
    bool finished = false;  // its rows are in the output already; with a job they are to be checked
  };

  Prepared prepare(int index) const;
  std::optional<Prepared> next_prepared();
  void read_ahead();
  /// The next document that has a job or an error.
  std::optional<Prepared> next_unfinished();
  /// The index of a document that no group has taken before.
  std::optional<int> take();
  Document read_document(int index) const;
  /// Rows with id, key and metadata of the document's questions; one if it has none that can be read.
  std::vector<ResultRow> begin_rows(const Document& document) const;
  /// Tokens of the document and its questions, their lengths to the rows; an Error means that the document fails.
  Job make_job(const Document& document, std::vector<ResultRow>& rows) const;
  void check_positions(const DocumentLengths& lengths) const;
  std::string key_of(const Document& document, int question) const;
  bool is_finished(const ResultRow& row) const;
  bool is_checked(const ResultRow& row) const;  // by an earlier run
  void fill(ResultRow& row, const Partition& partition, Answer& answer) const;
  void fail_rows(const std::string& why);
  void leave_unchecked(const std::string& why);
  void commit_rows(double check_seconds = 0);
  void report_progress(double check_seconds);
  int document_count() const { return file_ ? file_->size() : 1; }

  RunOptions options_;
  ModelConfig config_;
  std::optional<DocumentFile> file_;  // --input
  Document single_;                   // --document
  std::vector<std::string> ids_;
  Tokenizer tokenizer_;
  TemplateKind template_;
  std::string model_fingerprint_;
  std::optional<ResultsWriter> writer_;  // none without --output
  Progress progress_;

  WorkQueue& queue_;
  std::vector<int> order_;        // of the documents in the queue
  std::int64_t last_taken_ = -1;  // place in the queue
  std::vector<bool> checked_;     // documents that are to be checked against the exact method
  std::vector<ResultRow> rows_;   // of the document under way
  bool finished_ = false;         // they are in the output already
  JobTotals totals_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point document_start_ = start_;
  std::future<Prepared> ahead_;  // the last member: its thread uses the others
};

}  // namespace apb
