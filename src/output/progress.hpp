// What a run says while it works and at its end.
#pragma once

#include <cstdint>
#include <ostream>
#include <span>
#include <string>

namespace apb {

/// One document, as far as progress is concerned.
struct DocumentDone {
  std::int64_t number = 0;  // of those that are done, wherever and whenever, with this one
  std::string id;
  std::string message;      // why it failed; empty if ok
  std::int64_t tokens = 0;  // prompt and answer
  double seconds = 0;
  double check_seconds = 0;  // more, of --check-dense
};

/// Reports documents as they are done: on a terminal in one line that is written over and over (failures stay above
/// it), else as one line each.
class Progress {
 public:
  Progress(std::ostream& out, bool terminal, std::int64_t documents);

  /// `elapsed_seconds` since the first document began: the base of tokens/s and time left.
  void done(const DocumentDone& document, double elapsed_seconds);

  /// A line about a document that is no failure.
  void note(const std::string& text);

  /// Ends the line on a terminal.
  void finish();

 private:
  std::ostream& out_;
  bool terminal_;
  std::int64_t documents_;
  std::int64_t done_ = 0;
  std::int64_t tokens_ = 0;
};

/// A duration in hours, minutes and seconds, such as 1:02:03 or 2:03.
std::string clock_text(double seconds);

/// Prints per phase the minimum, mean and maximum over the ranks and the share of the total.
/// phase_seconds: [ranks, phases].
void print_breakdown(std::ostream& out, std::span<const double> phase_seconds);

}  // namespace apb
