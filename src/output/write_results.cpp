#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "error.hpp"
#include "output/durable_file.hpp"
#include "output/hdf5.hpp"
#include "output/results.hpp"
#include "phases.hpp"

namespace apb {

namespace {

using Rows = std::vector<ResultRow>;

constexpr hsize_t phases = phase_count;

/// One field of every row.
template <typename Field>
auto column(const Rows& rows, Field field) {
  std::vector<std::decay_t<std::invoke_result_t<Field, const ResultRow&>>> values;
  for (const auto& row : rows) values.push_back(std::invoke(field, row));
  return values;
}

/// The largest value of a field over the rows; 0 without rows.
template <typename Field>
hsize_t largest(const Rows& rows, Field field) {
  hsize_t result = 0;
  for (const auto& row : rows) result = std::max(result, static_cast<hsize_t>(std::invoke(field, row)));
  return result;
}

void check_row(const ResultRow& row, const SavedArrays& saved) {
  const auto require = [&](bool holds, std::string_view what) {
    if (!holds) fail("result of document {}: {}", row.id, what);
  };
  const auto size = [](auto... factors) { return (std::size_t{1} * ... * static_cast<std::size_t>(factors)); };
  const auto& selection = row.selection;
  require(row.ok == row.message.empty(), "a failed row has a message, and only a failed row");
  require(!row.drift || (row.ok && std::isfinite(row.drift->largest_logit_difference)),
          "drift is finite, and of rows that are ok");
  require(row.ok || (row.token_ids.empty() && row.phase_seconds.empty()), "a failed row has no tokens and no times");
  require(!row.ok || row.phase_seconds.size() == size(row.ranks_used, phases), "one time per rank and phase");
  for (const auto* counts : {&row.pairs, &row.bytes_sent}) {
    require(counts->size() == (row.ok ? size(row.ranks_used) : 0), "one count per rank, none if failed");
  }
  require(row.message_seconds.size() == (row.ok ? size(row.ranks_used) : 0), "one time of all messages per rank");
  require(saved.vocabulary == 0 || row.logits.size() == size(row.token_ids.size(), saved.vocabulary),
          "logits are tokens x vocabulary");
  require(selection.positions.size() == size(selection.layers, selection.blocks, selection.kv_heads, selection.p),
          "selection is layers x blocks x kv_heads x p");
}

void write_documents(h5::File& file, const Rows& rows) {
  const auto status = [](const ResultRow& row) { return std::string(row.ok ? "ok" : "failed"); };
  file.create_group("documents");
  file.write_texts("documents/id", column(rows, &ResultRow::id),
                   {"id of the document; further questions of one document are id#2, id#3, ...", ""});
  file.write_texts("documents/key", column(rows, &ResultRow::key),
                   {"hash of the document, the model and every option that can change the answer", ""});
  file.write_texts("documents/status", column(rows, status), {"ok or failed", ""});
  file.write_texts("documents/message", column(rows, &ResultRow::message), {"why the document failed", ""});
  file.write("documents/context_length", column(rows, &ResultRow::context_length),
             {"prompt before the question", "tokens"});
  file.write("documents/query_length", column(rows, &ResultRow::query_length),
             {"question and all of the template after it", "tokens"});
  file.write_texts("documents/metadata", column(rows, &ResultRow::metadata),
                   {"other fields of the input line, as JSON", ""});
  file.write_texts("documents/method", column(rows, &ResultRow::method), {"attention method that was used", ""});
  file.write("documents/blocks", column(rows, &ResultRow::blocks), {"blocks that the context was cut into", "blocks"});
  file.write("documents/anchor_length", column(rows, &ResultRow::anchor_length), {"anchor", "tokens"});
  file.write("documents/passing_length", column(rows, &ResultRow::passing_length),
             {"entries that each block and KV head passed on", "tokens"});
  file.write("documents/ranks_used", column(rows, &ResultRow::ranks_used), {"ranks that shared the document", "ranks"});
}

/// The logits of all rows one below the other, chunks of about 1 MiB.
void write_logits(h5::File& file, Rows& rows, hsize_t tokens, hsize_t vocabulary) {
  const hsize_t chunk = std::clamp<hsize_t>((hsize_t{1} << 18) / vocabulary, 1, std::max<hsize_t>(tokens, 1));
  file.create<float>("outputs/logits", {tokens, vocabulary}, tokens == 0 ? h5::Shape{} : h5::Shape{chunk, vocabulary},
                     0.0F, {"logits from which each token was chosen, rows as in token_ids", "1"});
  hsize_t first = 0;
  for (auto& row : rows) {
    file.write_block<float>("outputs/logits", {{first, 0}, {row.token_ids.size(), vocabulary}}, row.logits);
    first += row.token_ids.size();
    std::vector<float>().swap(row.logits);  // = {} would keep the memory
  }
}

void write_outputs(h5::File& file, Rows& rows, const SavedArrays& saved) {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets = {0};
  for (const auto& row : rows) {
    tokens.insert(tokens.end(), row.token_ids.begin(), row.token_ids.end());
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  file.create_group("outputs");
  file.write_texts("outputs/text", column(rows, &ResultRow::text), {"answer, without special tokens", ""});
  file.write("outputs/token_ids", tokens, {"tokens of all answers, the stop token included", "token id"});
  file.write("outputs/token_offsets", offsets,
             {"row i has token_ids[offsets[i]] up to, not including, token_ids[offsets[i + 1]]", "tokens"});
  file.write_texts("outputs/finish_reason", column(rows, &ResultRow::finish_reason),
                   {"stop (the model ended the answer) or length (--max-new-tokens); empty if failed", ""});
  if (saved.vocabulary > 0) write_logits(file, rows, tokens.size(), static_cast<hsize_t>(saved.vocabulary));
}

/// What each rank computed and sent in the prefill.
void write_counts(h5::File& file, const Rows& rows, hsize_t ranks) {
  const auto write = [&](const std::string& dataset, std::vector<double> ResultRow::*field, const h5::About& about) {
    file.create<double>(dataset, {rows.size(), ranks}, {}, 0.0, about);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto& counts = rows[i].*field;
      file.write_block<double>(dataset, {{i, 0}, {1, counts.size()}}, counts);
    }
    file.label_axis(dataset, 0, "row");
    file.attach_scale(dataset, 1, "timings/ranks", "rank");
  };
  write("timings/pairs", &ResultRow::pairs,
        {"query-key pairs that each rank computed in the prefill, over layers and heads", "pairs"});
  write("timings/bytes_sent", &ResultRow::bytes_sent, {"what each rank sent in the prefill", "bytes"});
  file.write("timings/full_pairs", column(rows, &ResultRow::full_pairs),
             {"pairs that exact attention needs over all ranks", "pairs"});
}

void write_timings(h5::File& file, const Rows& rows) {
  file.create_group("timings");
  file.write("timings/ttft_seconds", column(rows, &ResultRow::ttft_seconds),
             {"time to first token: prefill and the first step", "seconds"});
  file.write("timings/decode_seconds", column(rows, &ResultRow::decode_seconds),
             {"all further tokens together", "seconds"});
  file.write("timings/prefill_seconds", column(rows, &ResultRow::prefill_seconds), {"prefill", "seconds"});

  const hsize_t ranks = largest(rows, &ResultRow::ranks_used);
  std::vector<std::int32_t> rank_numbers(ranks);
  std::iota(rank_numbers.begin(), rank_numbers.end(), 0);
  file.write("timings/ranks", rank_numbers, {"rank within the group that shares a document", "rank"});
  file.write_texts("timings/phases", {phase_names.begin(), phase_names.end()}, {"phases of the prefill", ""});
  file.create<double>("timings/phase_seconds", {rows.size(), ranks, phases}, {}, 0.0,
                      {"prefill time per rank and phase; 0 beyond ranks_used and for failed rows", "seconds"});
  file.create<double>(
      "timings/communication_whole_seconds", {rows.size(), ranks}, {}, 0.0,
      {"prefill: from start to end of each message, waited for or not; zeros as in phase_seconds", "seconds"});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& row = rows[i];
    if (!row.ok) continue;
    const auto used = static_cast<hsize_t>(row.ranks_used);
    file.write_block<double>("timings/phase_seconds", {{i, 0, 0}, {1, used, phases}}, row.phase_seconds);
    file.write_block<double>("timings/communication_whole_seconds", {{i, 0}, {1, used}}, row.message_seconds);
  }
  file.label_axis("timings/phase_seconds", 0, "row");
  file.attach_scale("timings/phase_seconds", 1, "timings/ranks", "rank");
  file.attach_scale("timings/phase_seconds", 2, "timings/phases", "phase");
  write_counts(file, rows, ranks);
  file.label_axis("timings/communication_whole_seconds", 0, "row");
  file.attach_scale("timings/communication_whole_seconds", 1, "timings/ranks", "rank");
}

void write_selection(h5::File& file, const Rows& rows) {
  const auto longest = [&](int SelectionRecord::*axis) {
    return largest(rows, [axis](const ResultRow& row) { return row.selection.*axis; });
  };
  const h5::Shape shape = {rows.size(), longest(&SelectionRecord::layers), longest(&SelectionRecord::blocks),
                           longest(&SelectionRecord::kv_heads), longest(&SelectionRecord::p)};
  file.create_group("selection");
  file.create<std::int32_t>("selection/positions", shape, {}, -1,
                            {"context positions that were passed on, ascending; -1 where nothing", "tokens"});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& one = rows[i].selection;
    const auto count = [](int value) { return static_cast<hsize_t>(value); };
    const h5::Block block = {{i, 0, 0, 0, 0},
                             {1, count(one.layers), count(one.blocks), count(one.kv_heads), count(one.p)}};
    file.write_block<std::int32_t>("selection/positions", block, one.positions);
  }
  unsigned axis = 0;
  for (const auto* label : {"row", "layer", "block", "kv_head", "slot"}) {
    file.label_axis("selection/positions", axis++, label);
  }
}

/// Of the rows that were checked.
void write_drift(h5::File& file, const Rows& rows) {
  std::vector<std::int64_t> checked;
  std::vector<float> differences;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> equal;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& drift = rows[i].drift;
    if (!drift) continue;
    checked.push_back(static_cast<std::int64_t>(i));
    differences.push_back(drift->largest_logit_difference);
    tokens.push_back(drift->first_differing_token);
    equal.push_back(drift->answers_equal() ? 1 : 0);
  }
  if (checked.empty()) return;
  file.create_group("drift");
  file.write("drift/row", checked, {"row in documents that was answered by method full, too", "row"});
  file.write(
      "drift/largest_logit_difference", differences,
      {"largest absolute difference of a logit, over the tokens up to and including the first that differs", "1"});
  file.write("drift/first_differing_token", tokens,
             {"token of the answer, from 0, where the two answers first differ; -1 if nowhere", "token"});
  file.write("drift/answers_equal", equal, {"1 if both answers have the same tokens, else 0", ""});
}

}  // namespace

void write_run(h5::File& file, const RunInfo& info) {
  file.create_group("run");
  file.set_attribute("run", "version", info.version);
  file.set_attribute("run", "command_line", info.command_line);
  file.set_attribute("run", "options", info.options);
  file.set_attribute("run", "model", info.model);
  file.set_attribute("run", "ranks", info.ranks);
  file.set_attribute("run", "hosts", info.hosts);
  file.set_attribute("run", "devices", info.devices);
  file.set_attribute("run", "dtype", info.dtype);
  file.set_attribute("run", "start_time", info.start_time);
}

void write_results(const std::filesystem::path& path, const RunInfo& info, std::vector<ResultRow> rows,
                   const SavedArrays& saved) {
  for (const auto& row : rows) check_row(row, saved);
  auto file = h5::File::create_in_memory(path);
  write_run(file, info);
  write_documents(file, rows);
  write_outputs(file, rows, saved);
  write_timings(file, rows);
  if (saved.selection) write_selection(file, rows);
  write_drift(file, rows);
  replace_file(path, file.image());
}

}  // namespace apb
