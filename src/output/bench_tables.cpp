#include <fmt/ostream.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <span>

#include "output/bench_results.hpp"
#include "phases.hpp"

namespace apb {
namespace {

constexpr std::size_t phases = phase_count;

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// "median (smallest..largest)"
std::string with_spread(const std::vector<double>& values, double factor) {
  const auto [least, most] = std::ranges::minmax(values);
  return fmt::format("{:.4g} ({:.4g}..{:.4g})", factor * median(values), factor * least, factor * most);
}

double gibibytes(const std::vector<std::int64_t>& bytes) {
  return static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0})) / 0x1p30;
}

/// The repetition whose time is the median, or the next below.
std::size_t median_repetition(const std::vector<double>& seconds) {
  std::vector<std::size_t> order(seconds.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return seconds[a] < seconds[b]; });
  return order[(order.size() - 1) / 2];
}

/// Sum over the ranks of values [ranks, phases].
std::vector<double> over_ranks(std::span<const double> values) {
  std::vector<double> totals(phases);
  for (std::size_t i = 0; i < values.size(); ++i) totals[i % phases] += values[i];
  return totals;
}

std::string rate(double amount, double seconds) {
  return amount > 0 && seconds > 0 ? fmt::format("{:.1f}", amount / seconds / 1e9) : "-";
}

std::string share(double amount, double seconds, double peak) {
  return amount > 0 && seconds > 0 && peak > 0 ? fmt::format("{:.1f}%", 100 * amount / seconds / peak) : "-";
}

/// One part, prefill or decoding: per phase [phases] seconds (mean over the ranks), operations and bytes (of all).
struct RooflineTable {
  std::string title;
  std::vector<double> seconds;
  std::vector<double> flops;
  std::vector<double> bytes;
};

void print_table(std::ostream& out, const RooflineTable& table, const BenchPeaks& peaks) {
  const double total = sum(table.seconds);
  const auto line = [&](std::string_view name, double seconds, double flops, double bytes) {
    fmt::print(out, "{:<26}{:>10.4f}{:>7.1f}%{:>12.2f}{:>10}{:>9}{:>10.2f}{:>9}{:>9}\n", name, seconds,
               total > 0 ? 100 * seconds / total : 0.0, flops / 1e9, rate(flops, seconds),
               share(flops, seconds, sum(peaks.flops_per_second)), bytes / 1e9, rate(bytes, seconds),
               share(bytes, seconds, sum(peaks.bytes_per_second)));
  };
  fmt::print(out, "{:<26}{:>10}{:>8}{:>12}{:>10}{:>9}{:>10}{:>9}{:>9}\n", table.title, "seconds", "share", "GFLOP",
             "GFLOP/s", "of peak", "GB", "GB/s", "of peak");
  for (std::size_t phase = 0; phase < phases; ++phase) {
    line(phase_names[phase], table.seconds[phase], table.flops[phase], table.bytes[phase]);
  }
  line("total", total, sum(table.flops), sum(table.bytes));
}

/// Busy time of each rank in each repetition: all phases but other, where waiting is.
void print_busy(std::ostream& out, const BenchCase& one, std::size_t ranks) {
  std::vector<double> slowest;
  std::vector<double> mean;
  for (std::size_t repetition = 0; repetition < one.prefill_seconds.size(); ++repetition) {
    std::vector<double> busy(ranks);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const auto seconds = std::span(one.phase_seconds).subspan((repetition * ranks + rank) * phases, phases);
      busy[rank] = std::accumulate(seconds.begin(), seconds.end(), -seconds[static_cast<std::size_t>(Phase::other)]);
    }
    slowest.push_back(std::ranges::max(busy));
    mean.push_back(sum(busy) / static_cast<double>(ranks));
  }
  fmt::print(out, "{:>8} busy in the prefill: slowest rank {:.4g} s, mean of the ranks {:.4g} s\n", "", median(slowest),
             median(mean));
}

}  // namespace

void print_bench_heading(std::ostream& out) {
  fmt::print(out, "{:>8} {:<8}{:>6}{:>8}{:>9}  {:<28}{:>11}  {:<28}{:>11}{:>11}{:>11}{:>11}{:>10}{:>10}\n", "context",
             "method", "blocks", "anchor", "passing", "prefill s (min..max)", "tokens/s", "decode ms/token (min..max)",
             "weights GiB", "needed GiB", "peak GiB", "pairs/full", "max/mean", "sent MiB");
}

void print_bench_case(std::ostream& out, const BenchResults& results, const BenchCase& one) {
  const auto tokens = static_cast<double>(one.context_length + results.query_length);
  const std::string decoding =
      results.decode_tokens > 0 ? with_spread(one.decode_seconds, 1e3 / results.decode_tokens) : "-";
  const double pairs = sum(one.pairs);
  const double mean_pairs = pairs / static_cast<double>(one.pairs.size());
  fmt::print(
      out,
      "{:>8} {:<8}{:>6}{:>8}{:>9}  {:<28}{:>11.1f}  {:<28}{:>11.2f}{:>11.2f}{:>11.2f}{:>11.3f}{:>10.2f}{:>10.1f}\n",
      one.context_length, one.method, one.blocks, one.anchor_length, one.passing_length,
      with_spread(one.prefill_seconds, 1.0), tokens / median(one.prefill_seconds), decoding,
      gibibytes(results.loaded_bytes), gibibytes(one.needed_bytes), gibibytes(one.peak_bytes), pairs / one.full_pairs,
      std::ranges::max(one.pairs) / mean_pairs, std::ranges::max(one.bytes_sent) / 0x1p20);
  if (results.emulated_ranks > 0) print_busy(out, one, static_cast<std::size_t>(results.info.ranks));
  out.flush();
}

void print_peaks(std::ostream& out, const BenchPeaks& peaks) {
  const std::set<std::string> instructions(peaks.instructions.begin(), peaks.instructions.end());
  const double clock = std::ranges::min(peaks.clock_hertz);
  fmt::print(out, "peaks of all ranks: {:.1f} GFLOP/s ({}), reading {:.1f} GB/s{}\n", sum(peaks.flops_per_second) / 1e9,
             fmt::join(instructions, ", "), sum(peaks.bytes_per_second) / 1e9,
             clock > 0 ? fmt::format(", core clock {:.2f} GHz", clock / 1e9) : "");
}

void print_roofline(std::ostream& out, const BenchResults& results, const BenchCase& one) {
  const auto seconds_of = [&](const std::vector<double>& phase_seconds, const std::vector<double>& by) {
    const std::size_t size = phase_seconds.size() / by.size();
    auto seconds = over_ranks(std::span(phase_seconds).subspan(median_repetition(by) * size, size));
    for (double& value : seconds) value /= results.info.ranks;
    return seconds;
  };
  fmt::print(out, "\n");
  print_table(out,
              {.title = fmt::format("{} tokens, prefill", one.context_length),
               .seconds = seconds_of(one.phase_seconds, one.prefill_seconds),
               .flops = over_ranks(one.flops),
               .bytes = over_ranks(one.bytes)},
              results.peaks);
  const double seconds = median(one.prefill_seconds);
  fmt::print(out, "each operation once: {:.2f} GFLOP, {} GFLOP/s, {} of the peak\n", one.prefill_flops / 1e9,
             rate(one.prefill_flops, seconds), share(one.prefill_flops, seconds, sum(results.peaks.flops_per_second)));
  if (results.decode_tokens > 0) {
    print_table(out,
                {.title = fmt::format("{} tokens, decoding {}", one.context_length, results.decode_tokens),
                 .seconds = seconds_of(one.decode_phase_seconds, one.decode_seconds),
                 .flops = over_ranks(one.decode_flops),
                 .bytes = over_ranks(one.decode_bytes)},
                results.peaks);
  }
  fmt::print(out, "\n");
  out.flush();
}

}  // namespace apb
