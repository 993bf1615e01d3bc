// What apb bench measured: its file and its tables. docs/outputs.md describes the schema.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "output/results.hpp"

namespace apb {

/// One context length.
struct BenchCase {
  std::int64_t context_length = 0;
  std::string method;
  int blocks = 0;
  int anchor_length = 0;
  int passing_length = 0;
  std::vector<double> prefill_seconds;       // [repeats]
  std::vector<double> decode_seconds;        // [repeats], all tokens after the first
  std::vector<double> phase_seconds;         // [repeats, ranks, phases], prefill
  std::vector<double> decode_phase_seconds;  // [repeats, ranks, phases]
  double prefill_flops = 0.0;                // of all ranks, what they do in common counted once
  std::vector<double> flops;                 // [ranks, phases], prefill
  std::vector<double> bytes;                 // [ranks, phases], prefill
  std::vector<double> decode_flops;          // [ranks, phases]
  std::vector<double> decode_bytes;          // [ranks, phases]
  std::vector<double> pairs;                 // [ranks], query-key pairs of the prefill
  std::vector<double> bytes_sent;            // [ranks], in the prefill
  double full_pairs = 0.0;                   // what exact attention needs
  std::vector<std::int64_t> needed_bytes;    // [ranks], computed before; weights not counted
  std::vector<std::int64_t> peak_bytes;      // [ranks], resident, of the whole process; 0 if unknown
};

/// What each rank's device was seen to do at most; empty when that was not asked for.
struct BenchPeaks {
  std::vector<double> flops_per_second;
  std::vector<double> bytes_per_second;
  std::vector<double> clock_hertz;
  std::vector<std::string> instructions;
};

struct BenchResults {
  RunInfo info;
  int query_length = 0;
  int decode_tokens = 0;  // after the first
  int warmup = 0;
  int repeats = 0;
  int emulated_ranks = 0;                  // 0: real ones
  std::vector<std::int64_t> loaded_bytes;  // [ranks], resident with the weights and nothing else; 0 if unknown
  BenchPeaks peaks;
  std::vector<BenchCase> cases;
};

/// Writes the file in one step, as write_results does.
void write_bench(const std::filesystem::path& path, const BenchResults& results);

/// The heading of the lines that print_bench_case prints.
void print_bench_heading(std::ostream& out);

/// One line: medians, smallest and largest times; of emulated ranks a second one, what the slowest computed and copied.
void print_bench_case(std::ostream& out, const BenchResults& results, const BenchCase& one);

/// What the peaks are, one line.
void print_peaks(std::ostream& out, const BenchPeaks& peaks);

/// Each phase's time, rates and share of the peaks, for prefill and decoding.
void print_roofline(std::ostream& out, const BenchResults& results, const BenchCase& one);

}  // namespace apb
