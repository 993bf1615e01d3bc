// Rank 0's side of a run: documents in, results out.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "commands/dense_check.hpp"
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

class Coordinator {
 public:
  /// Opens input, tokenizer and output; throws Error before any work when one of them cannot be used.
  Coordinator(const RunOptions& options, const ModelConfig& config, RunInfo info);

  /// The name of the prompt template that documents in text get.
  std::string_view prompt_template() const { return template_name(template_); }

  /// The next document that needs work. Those that cannot be used are committed as failed, those already in the output
  /// are left out.
  std::optional<Job> next();

  /// Takes the result of the job that next() gave last.
  void commit(DocumentResult result);

  /// Merges the parts; prints what the run came to. The exit code tells whether documents failed.
  ExitCode finish();

  /// Instead of finish(): writes what is done as a part and says how to go on. The document under way is left out.
  ExitCode stop();

 private:
  std::optional<int> next_index();
  Document read_document(int index) const;
  /// Rows with id, key and metadata of the document's questions; one if it has none that can be read.
  std::vector<ResultRow> begin_rows(const Document& document) const;
  /// Tokens of the document and its questions, their lengths to the rows; an Error means that the document fails.
  Job make_job(const Document& document, std::vector<ResultRow>& rows) const;
  void check_positions(const DocumentLengths& lengths) const;
  std::string key_of(const Document& document, int question) const;
  bool is_finished(const ResultRow& row) const;
  /// Whether an earlier run checked it; if so, it counts in the summary.
  bool is_checked(const ResultRow& row);
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

  CheckedDocuments checked_;
  DriftSummary drifts_;

  int next_document_ = 0;
  int index_ = 0;                // of the document under way
  bool again_ = false;           // it was done before in this run, and is only to be checked
  bool finished_ = false;        // its rows are in the output already, from this run or an earlier one
  std::vector<ResultRow> rows_;  // of the document under way
  int failed_ = 0;
  int done_ = 0;
  std::vector<double> phase_seconds_;  // [ranks, phases], over all documents
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point document_start_ = start_;
};

}  // namespace apb
