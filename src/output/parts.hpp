// Results are committed while a run goes on, as part files in FILE.h5.parts/, and merged into FILE.h5 at its end.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "output/folder_lock.hpp"
#include "output/results.hpp"
#include "output/summary.hpp"

namespace apb {

/// What to do about an output that exists.
enum class OpenMode { refuse_existing, overwrite, resume };

struct OutputOptions {
  std::filesystem::path file;
  OpenMode mode = OpenMode::refuse_existing;
  SavedArrays saved;
  int group = 0;   // of several that write to the same output; the first opens it before the others do
  int groups = 1;  // ... and finishes it after them
  std::chrono::milliseconds part_interval{2000};  // rows of quick documents share a part for this long
};

/// How the run was made that an output (FILE.h5, or else the first of its parts) began with; nothing when there is
/// none.
std::optional<RunInfo> find_run(const std::filesystem::path& file);

/// The rows in a folder FILE.h5.parts as they stand, without logits and selection, each id once.
Results read_parts(const std::filesystem::path& folder);

/// Writes the output of one run. A row is safe once its part is renamed; rows not yet flushed are lost with the writer.
/// Every error leaves what is on disk fit for a resumed run.
class ResultsWriter {
 public:
  /// Locks the output and makes sure that it can be written. Overwriting removes old parts at once, but an old
  /// FILE.h5 stays until finish().
  ResultsWriter(OutputOptions options, RunInfo info);

  /// Keys of the rows that need no further work. Failed rows are not among them, so that they are tried again.
  const std::unordered_set<std::string>& finished_keys() const { return finished_keys_; }

  /// Drift by key, of the finished rows that were checked.
  const std::unordered_map<std::string, Drift>& earlier_drifts() const { return earlier_drifts_; }

  /// Takes the rows of a finished document, which stay together, in the place of those with their ids that have no part
  /// yet; writes a part if the last one is `part_interval` old.
  void commit(std::vector<ResultRow> rows);

  /// Where the parts are.
  const std::filesystem::path& folder() const { return folder_; }

  /// Writes a part if there are rows.
  void flush();

  /// Merges the file so far (resume) and all parts into FILE.h5, rows in the order of `ids` and others after them,
  /// and removes the parts. Of rows with one id the newest counts, but a failure does not replace its key's success.
  /// Gives the drift of all rows.
  DriftSummary finish(const std::vector<std::string>& ids);

 private:
  void refuse_existing() const;
  void lock();
  void remove_leftovers() const;
  void remove_parts() const;
  bool file_counts() const;
  void check_saved_arrays(const std::filesystem::path& source, const SavedArrays& saved) const;
  std::vector<ResultRow> collect(Arrays arrays) const;

  OutputOptions options_;
  RunInfo info_;
  std::filesystem::path folder_;
  std::optional<FolderLock> lock_;
  std::unordered_set<std::string> finished_keys_;
  std::unordered_map<std::string, Drift> earlier_drifts_;
  std::vector<ResultRow> waiting_;
  int next_part_;
  std::chrono::steady_clock::time_point last_part_ = std::chrono::steady_clock::now();
};

}  // namespace apb
