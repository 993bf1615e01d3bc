#include <functional>
#include <numeric>

#include "output/bench_results.hpp"
#include "output/durable_file.hpp"
#include "output/hdf5.hpp"
#include "phases.hpp"

namespace apb {
namespace {

using Cases = std::vector<BenchCase>;

template <typename Value>
std::vector<Value> column(const Cases& cases, Value BenchCase::*field) {
  std::vector<Value> values;
  for (const auto& one : cases) values.push_back(one.*field);
  return values;
}

/// A dataset whose first axis is the cases, from one row of values of each.
template <typename Value>
void write_rows(h5::File& file, const std::string& dataset, const Cases& cases, std::vector<Value> BenchCase::*field,
                const h5::Shape& row, const h5::About& about) {
  h5::Shape shape = {cases.size()};
  shape.insert(shape.end(), row.begin(), row.end());
  file.create<Value>(dataset, shape, {}, Value{}, about);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    h5::Block block{h5::Shape(shape.size(), 0), shape};
    block.start[0] = i;
    block.count[0] = 1;
    file.write_block<Value>(dataset, block, cases[i].*field);
  }
  file.label_axis(dataset, 0, "case");
}

void write_cases(h5::File& file, const BenchResults& results) {
  const Cases& cases = results.cases;
  file.create_group("cases");
  file.set_attribute("cases", "query_length", results.query_length);
  file.set_attribute("cases", "decode_tokens", results.decode_tokens);
  file.set_attribute("cases", "warmup", results.warmup);
  file.set_attribute("cases", "repeats", results.repeats);
  file.write("cases/context_length", column(cases, &BenchCase::context_length),
             {"context before the question", "tokens"});
  file.write_texts("cases/method", column(cases, &BenchCase::method), {"attention method that was used", ""});
  file.write("cases/blocks", column(cases, &BenchCase::blocks), {"blocks that the context was cut into", "blocks"});
  file.write("cases/anchor_length", column(cases, &BenchCase::anchor_length), {"anchor", "tokens"});
  file.write("cases/passing_length", column(cases, &BenchCase::passing_length),
             {"entries that each block and KV head passed on", "tokens"});
}

void write_timings(h5::File& file, const BenchResults& results, hsize_t ranks) {
  const Cases& cases = results.cases;
  const auto repeats = static_cast<hsize_t>(results.repeats);
  file.create_group("timings");
  std::vector<std::int32_t> rank_numbers(ranks);
  std::iota(rank_numbers.begin(), rank_numbers.end(), 0);
  file.write("timings/ranks", rank_numbers, {"rank", "rank"});
  file.write_texts("timings/phases", {phase_names.begin(), phase_names.end()}, {"phases", ""});
  write_rows(file, "timings/prefill_seconds", cases, &BenchCase::prefill_seconds, {repeats},
             {"prefill up to the first token", "seconds"});
  write_rows(file, "timings/decode_seconds", cases, &BenchCase::decode_seconds, {repeats},
             {"all tokens after the first", "seconds"});
  const h5::Shape phases = {repeats, ranks, phase_count};
  write_rows(file, "timings/phase_seconds", cases, &BenchCase::phase_seconds, phases,
             {"prefill time per repetition, rank and phase", "seconds"});
  write_rows(file, "timings/decode_phase_seconds", cases, &BenchCase::decode_phase_seconds, phases,
             {"decoding time per repetition, rank and phase", "seconds"});
  for (const std::string name :
       {"timings/prefill_seconds", "timings/decode_seconds", "timings/phase_seconds", "timings/decode_phase_seconds"}) {
    file.label_axis(name, 1, "repetition");
  }
  for (const std::string name : {"timings/phase_seconds", "timings/decode_phase_seconds"}) {
    file.attach_scale(name, 2, "timings/ranks", "rank");
    file.attach_scale(name, 3, "timings/phases", "phase");
  }
}

void write_work(h5::File& file, const BenchResults& results, hsize_t ranks) {
  const Cases& cases = results.cases;
  const h5::Shape phases = {ranks, phase_count};
  file.create_group("work");
  file.write("work/prefill_flops", column(cases, &BenchCase::prefill_flops),
             {"operations of the prefill, what ranks do in common counted once", "floating-point operations"});
  const auto write = [&](const std::string& name, std::vector<double> BenchCase::*field, const std::string& what,
                         const char* units) {
    write_rows(file, "work/" + name, cases, field, phases, {what, units});
    file.attach_scale("work/" + name, 1, "timings/ranks", "rank");
    file.attach_scale("work/" + name, 2, "timings/phases", "phase");
  };
  write("flops", &BenchCase::flops, "operations of the prefill per rank and phase", "floating-point operations");
  write("bytes", &BenchCase::bytes, "bytes that the prefill moves at least, per rank and phase", "bytes");
  write("decode_flops", &BenchCase::decode_flops, "operations of decoding per rank and phase",
        "floating-point operations");
  write("decode_bytes", &BenchCase::decode_bytes, "bytes that decoding moves at least, per rank and phase", "bytes");
  write_rows(file, "work/pairs", cases, &BenchCase::pairs, {ranks},
             {"query-key pairs that each rank computed in the prefill, over layers and heads", "pairs"});
  write_rows(file, "work/bytes_sent", cases, &BenchCase::bytes_sent, {ranks},
             {"what each rank sent in the prefill", "bytes"});
  for (const std::string name : {"work/pairs", "work/bytes_sent"}) file.attach_scale(name, 1, "timings/ranks", "rank");
  file.write("work/full_pairs", column(cases, &BenchCase::full_pairs),
             {"pairs that exact attention needs over all ranks", "pairs"});
}

void write_memory(h5::File& file, const BenchResults& results, hsize_t ranks) {
  file.create_group("memory");
  file.write("memory/loaded_bytes", results.loaded_bytes,
             {"resident with the weights and no document, per rank, what ranks share in parts; 0 if unknown", "bytes"});
  write_rows(file, "memory/needed_bytes", results.cases, &BenchCase::needed_bytes, {ranks},
             {"memory that the document takes, computed before, per rank; weights not counted", "bytes"});
  write_rows(file, "memory/peak_bytes", results.cases, &BenchCase::peak_bytes, {ranks},
             {"largest resident size of the process, per rank, what ranks share in parts; 0 if unknown", "bytes"});
}

void write_peaks(h5::File& file, const BenchPeaks& peaks) {
  file.create_group("peaks");
  file.write("peaks/flops_per_second", peaks.flops_per_second,
             {"the most that each rank's device computed", "floating-point operations / second"});
  file.write("peaks/bytes_per_second", peaks.bytes_per_second,
             {"the most that each rank's device read, all ranks at a time", "bytes / second"});
  file.write("peaks/clock_hertz", peaks.clock_hertz, {"clock of a core meanwhile; 0 if unknown", "Hz"});
  file.write_texts("peaks/instructions", peaks.instructions, {"what the operations were measured with", ""});
}

}  // namespace

void write_bench(const std::filesystem::path& path, const BenchResults& results) {
  auto file = h5::File::create_in_memory(path);
  const auto ranks = static_cast<hsize_t>(results.info.ranks);
  write_run(file, results.info);
  file.set_attribute("run", "emulated_ranks", results.emulated_ranks);
  write_cases(file, results);
  write_timings(file, results, ranks);
  write_work(file, results, ranks);
  write_memory(file, results, ranks);
  if (!results.peaks.flops_per_second.empty()) write_peaks(file, results.peaks);
  replace_file(path, file.image());
}

}  // namespace apb
