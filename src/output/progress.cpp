#include "output/progress.hpp"

#include <fmt/ostream.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "phases.hpp"

namespace apb {

Progress::Progress(std::ostream& out, bool terminal, std::int64_t documents)
    : out_(out), terminal_(terminal), documents_(documents) {}

void Progress::done(const DocumentDone& document, double elapsed_seconds) {
  ++done_;
  tokens_ += document.tokens;
  if (terminal_) out_ << "\r\033[K";
  if (!document.message.empty()) {
    fmt::print(out_, "[{}/{}] {}: failed: {}\n", document.number, documents_, document.id, document.message);
  } else if (!terminal_) {
    const std::string checked =
        document.check_seconds > 0 ? fmt::format(", checked in {:.2f} s", document.check_seconds) : "";
    fmt::print(out_, "[{}/{}] {}: {} tokens in {:.2f} s{}\n", document.number, documents_, document.id, document.tokens,
               document.seconds, checked);
  }
  if (terminal_) {
    const double rate = elapsed_seconds > 0 ? static_cast<double>(tokens_) / elapsed_seconds : 0;
    const double left =
        elapsed_seconds / static_cast<double>(done_) * static_cast<double>(documents_ - document.number);
    fmt::print(out_, "{}/{} documents, {:.0f} tokens/s, {} left", document.number, documents_, rate, clock_text(left));
  }
  out_.flush();
}

void Progress::note(const std::string& text) {
  if (terminal_) out_ << "\r\033[K";
  out_ << text + '\n' << std::flush;  // at once, or lines of several groups of ranks run into each other
}

void Progress::finish() {
  if (terminal_ && done_ > 0) out_ << '\n' << std::flush;
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(seconds, 0.0)));
  const auto minutes = whole / 60 % 60;
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, minutes, whole % 60);
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

void print_breakdown(std::ostream& out, std::span<const double> phase_seconds) {
  constexpr std::size_t phases = phase_names.size();
  const std::size_t ranks = phase_seconds.size() / phases;
  const double total = std::accumulate(phase_seconds.begin(), phase_seconds.end(), 0.0);
  fmt::print(out, "{:<14}{:>10}{:>10}{:>10}{:>9}\n", "seconds", "min", "mean", "max", "share");
  const auto print_line = [&](std::string_view name, const std::vector<double>& times) {
    if (times.empty()) return;
    const auto [least, most] = std::ranges::minmax(times);
    const double sum = std::accumulate(times.begin(), times.end(), 0.0);
    const double share = total > 0 ? 100 * sum / total : 0;
    fmt::print(out, "{:<14}{:>10.4f}{:>10.4f}{:>10.4f}{:>8.1f}%\n", name, least,
               sum / static_cast<double>(times.size()), most, share);
  };
  std::vector<double> totals(ranks);
  for (std::size_t phase = 0; phase < phases; ++phase) {
    std::vector<double> times(ranks);
    for (std::size_t rank = 0; rank < ranks; ++rank) times[rank] = phase_seconds[rank * phases + phase];
    for (std::size_t rank = 0; rank < ranks; ++rank) totals[rank] += times[rank];
    print_line(phase_names[phase], times);
  }
  print_line("total", totals);
}

}  // namespace apb
