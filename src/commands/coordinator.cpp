#include "commands/coordinator.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <numeric>

#include "commands/command_line.hpp"
#include "commands/dense_check.hpp"
#include "error.hpp"
#include "output/document_key.hpp"
#include "phases.hpp"

namespace apb {
namespace {

std::vector<std::string> ids_of(const std::optional<DocumentFile>& file, const Document& single) {
  if (!file) return {single.id};
  std::vector<std::string> ids;
  for (int index = 0; index < file->size(); ++index) {
    for (int question = 0; question < file->questions(index); ++question) {
      ids.push_back(question_id(file->id(index), question));
    }
  }
  return ids;
}

std::vector<std::string> document_ids(const std::optional<DocumentFile>& file, const Document& single) {
  if (!file) return {single.id};
  std::vector<std::string> ids;
  for (int index = 0; index < file->size(); ++index) ids.push_back(file->id(index));
  return ids;
}

std::string fingerprint_model(const RunOptions& options) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(options.model)) {
    const auto extension = entry.path().extension();
    if (entry.is_regular_file() && (extension == ".json" || extension == ".safetensors")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (!options.retaining_heads.empty()) files.push_back(options.retaining_heads);
  return fingerprint_files(files);
}

std::string_view bytes_of(const std::vector<std::int32_t>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(std::int32_t)};
}

void check_vocabulary(const std::vector<std::int32_t>& tokens, const char* field, int vocabulary) {
  const auto bad = std::find_if(tokens.begin(), tokens.end(), [&](std::int32_t token) { return token >= vocabulary; });
  if (bad != tokens.end()) fail("{}: token {} is outside the model's vocabulary of {}", field, *bad, vocabulary);
}

/// The options with everything left out that does not change an answer. Where the model and the document lie does not:
/// their contents count.
RunOptions options_for_answer(const RunOptions& options, int max_new_tokens) {
  RunOptions kept = options;
  for (auto* path : {&kept.model, &kept.input, &kept.output, &kept.document, &kept.retaining_heads}) path->clear();
  kept.device = {};
  kept.threads = {};
  kept.overlap = {};
  kept.ranks_per_document = 0;
  kept.save_logits = kept.save_selection = false;
  kept.check_dense = 0;
  const Method method = kept.method.method;
  if (method == Method::star) {
    kept.method = {.method = method, .blocks = kept.method.blocks, .automatic_blocks = kept.method.automatic_blocks};
  }
  if (method != Method::apb && method != Method::star) kept.method = {.method = method};  // exact in any blocks
  if (kept.method.compressor != CompressorKind::random) kept.method.seed = 0;
  kept.max_new_tokens = max_new_tokens;
  return kept;
}

OpenMode open_mode(const RunOptions& options) {
  if (options.resume) return OpenMode::resume;
  return options.overwrite ? OpenMode::overwrite : OpenMode::refuse_existing;
}

/// Groups begin with the longest documents, so that none is left with one when the others have ended.
std::vector<int> queue_order(const std::optional<DocumentFile>& file, int groups) {
  if (file && groups > 1) return file->longest_first();
  std::vector<int> order(file ? static_cast<std::size_t>(file->size()) : 1);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

JobTotals gather_totals(const Placement& placement, const JobTotals& own) {
  const auto ranks = static_cast<std::size_t>(placement.group().size());
  constexpr std::size_t counts = 5;
  std::vector<double> share = {static_cast<double>(own.done), static_cast<double>(own.failed),
                               static_cast<double>(own.drifts.answers), static_cast<double>(own.drifts.equal),
                               static_cast<double>(own.drifts.largest)};
  share.insert(share.end(), own.phase_seconds.begin(), own.phase_seconds.end());
  share.resize(counts + ranks * phase_count, 0.0);
  const auto bytes = placement.world().gather(std::as_bytes(std::span(share)));
  const std::span all(reinterpret_cast<const double*>(bytes.data()), bytes.size() / sizeof(double));
  JobTotals totals;
  for (std::size_t first = 0; first < all.size(); first += ranks * share.size()) {
    const auto group = all.subspan(first, share.size());
    totals.done += static_cast<std::int64_t>(group[0]);
    totals.failed += static_cast<std::int64_t>(group[1]);
    totals.drifts.answers += static_cast<int>(group[2]);
    totals.drifts.equal += static_cast<int>(group[3]);
    totals.drifts.largest = std::max(totals.drifts.largest, static_cast<float>(group[4]));
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const auto phases = group.subspan(counts + rank * phase_count, phase_count);
      if (std::accumulate(phases.begin(), phases.end(), 0.0) == 0.0) continue;
      totals.phase_seconds.insert(totals.phase_seconds.end(), phases.begin(), phases.end());
    }
  }
  return totals;
}

Coordinator::Coordinator(const RunOptions& options, const ModelConfig& config, RunInfo info, const Placement& placement,
                         WorkQueue& queue)
    : options_(options),
      config_(config),
      file_(options.input.empty() ? std::nullopt : std::optional(DocumentFile::open(options.input))),
      single_(options.input.empty() ? document_from_text_file(options.document, options.question) : Document{}),
      ids_(ids_of(file_, single_)),
      tokenizer_(Tokenizer::load(options.model / "tokenizer.json")),
      template_(choose_template(options.prompt_template, tokenizer_)),
      model_fingerprint_(fingerprint_model(options)),
      progress_(std::cerr, isatty(STDERR_FILENO) != 0 && placement.groups() == 1, document_count()),
      queue_(queue),
      order_(queue_order(file_, placement.groups())),
      checked_(choose_checked(document_ids(file_, single_), options.check_dense, options.method.seed)) {
  if (options.output.empty()) return;
  writer_.emplace(OutputOptions{.file = options.output,
                                .mode = open_mode(options),
                                .saved = {.vocabulary = options.save_logits ? config.vocabulary : 0,
                                          .selection = options.save_selection},
                                .group = placement.group_number(),
                                .groups = placement.groups()},
                  std::move(info));
}

Document Coordinator::read_document(int index) const { return file_ ? file_->read(index) : single_; }

/// A question's key covers all questions of its document, since the first one shapes what the others see.
std::string Coordinator::key_of(const Document& document, int question) const {
  const int max_new_tokens = document.max_new_tokens.value_or(options_.max_new_tokens);
  const std::string options = options_as_json(options_for_answer(options_, max_new_tokens));
  const std::string number = std::to_string(question);
  std::vector<std::string_view> pieces = {options, model_fingerprint_, document.id,
                                          number,  document.context,   bytes_of(document.context_tokens)};
  for (const auto& query : document.queries) pieces.emplace_back(query);
  for (const auto& query : document.query_tokens) pieces.emplace_back(bytes_of(query));
  // Behind an empty text, which no question is.
  if (!document.answer_prefix.empty()) pieces.insert(pieces.end(), {"", document.answer_prefix});
  return document_key(pieces);
}

bool Coordinator::is_finished(const ResultRow& row) const {
  return writer_ && writer_->finished_keys().contains(row.key);
}

bool Coordinator::is_checked(const ResultRow& row) const {
  return writer_ && writer_->earlier_drifts().contains(row.key);
}

std::vector<ResultRow> Coordinator::begin_rows(const Document& document) const {
  const auto questions = std::max({std::size_t{1}, document.queries.size(), document.query_tokens.size()});
  std::vector<ResultRow> rows;
  rows.reserve(questions);
  for (int question = 0; question < static_cast<int>(questions); ++question) {
    rows.push_back(
        {.id = question_id(document.id, question), .key = key_of(document, question), .metadata = document.metadata});
  }
  return rows;
}

void Coordinator::check_positions(const DocumentLengths& lengths) const {
  const std::int64_t positions = lengths.context + lengths.longest_query() + lengths.max_new_tokens;
  if (positions <= config_.max_positions) return;
  fail(
      "{} context + {} query + {} new tokens are more than the model's {} positions: shorten the document or "
      "--max-new-tokens",
      lengths.context, lengths.longest_query(), lengths.max_new_tokens, config_.max_positions);
}

Job Coordinator::make_job(const Document& document, std::vector<ResultRow>& rows) const {
  if (!document.error.empty()) throw Error(document.error);
  Job job;
  job.lengths.max_new_tokens = document.max_new_tokens.value_or(options_.max_new_tokens);
  if (document.tokenised) {
    job.context = document.context_tokens;
    job.queries = document.query_tokens;
    job.lengths.prefix = insert_for_tokens;
    check_vocabulary(job.context, "context_tokens", config_.vocabulary);
    for (const auto& query : job.queries) check_vocabulary(query, "query_tokens", config_.vocabulary);
  } else {
    Prompt prompt =
        build_prompt(template_, tokenizer_, document.context, document.queries.front(), document.answer_prefix);
    job.context = std::move(prompt.context);
    job.lengths.prefix = prompt.prefix_length;
    for (const auto& query : document.queries) {
      job.queries.push_back(build_query(template_, tokenizer_, query, document.answer_prefix));
    }
  }
  job.lengths.context = static_cast<std::int64_t>(job.context.size());
  job.lengths.query = static_cast<std::int64_t>(job.queries.front().size());
  for (std::size_t question = 0; question < rows.size(); ++question) {
    rows[question].context_length = job.lengths.context;
    rows[question].query_length = static_cast<std::int64_t>(job.queries[question].size());
    job.lengths.further_query = std::max(job.lengths.further_query, rows[question].query_length);
  }
  check_positions(job.lengths);
  const std::string hash = document_key(std::array<std::string_view, 1>{document.id});
  job.document = std::stoull(hash.substr(0, 16), nullptr, 16);
  return job;
}

Coordinator::Prepared Coordinator::prepare(int index) const {
  const Document document = read_document(index);
  Prepared prepared{.rows = begin_rows(document)};
  const auto& rows = prepared.rows;
  prepared.finished = std::ranges::all_of(rows, [&](const ResultRow& row) { return is_finished(row); });
  const bool check = checked_[static_cast<std::size_t>(index)] &&
                     !std::ranges::all_of(rows, [&](const ResultRow& row) { return is_checked(row); });
  if (prepared.finished && !check) return prepared;
  try {
    prepared.job = make_job(document, prepared.rows);
    prepared.job->check_dense = check;
  } catch (const Error& error) {
    prepared.error = error.what();
  }
  return prepared;
}

std::optional<int> Coordinator::take() {
  const auto place = queue_.take();
  if (!place || *place >= document_count()) return std::nullopt;
  last_taken_ = *place;
  return order_[static_cast<std::size_t>(*place)];
}

std::optional<Coordinator::Prepared> Coordinator::next_prepared() {
  if (ahead_.valid()) return ahead_.get();
  const auto index = take();
  return index ? std::optional(prepare(*index)) : std::nullopt;
}

/// The last documents are left in the queue, one for each group, for whichever is free first.
void Coordinator::read_ahead() {
  const int groups = queue_.takers();
  if (groups > 1 && last_taken_ + 2 * groups > document_count()) return;
  const auto index = take();
  if (index) ahead_ = std::async(std::launch::async, [this, index] { return prepare(*index); });
}

std::optional<Coordinator::Prepared> Coordinator::next_unfinished() {
  auto prepared = next_prepared();
  std::int64_t finished = 0;
  for (; prepared && !prepared->job && prepared->error.empty(); prepared = next_prepared()) ++finished;
  totals_.done += finished;
  if (finished > 0) queue_.add_done(finished);
  return prepared;
}

std::optional<Job> Coordinator::next() {
  while (auto prepared = next_unfinished()) {
    document_start_ = std::chrono::steady_clock::now();
    rows_ = std::move(prepared->rows);
    finished_ = prepared->finished;
    if (prepared->job) {
      read_ahead();
      return std::move(prepared->job);
    }
    fail_rows(prepared->error);
  }
  return std::nullopt;
}

void Coordinator::commit(DocumentResult result) {
  if (!result.error.empty()) {
    fail_rows(result.error);
    return;
  }
  for (std::size_t question = 0; question < rows_.size(); ++question) {
    fill(rows_[question], *result.partition, result.answers[question]);
    if (!file_) std::cout << rows_[question].text << std::endl;
    if (result.drifts.empty()) continue;
    rows_[question].drift = result.drifts[question];
    totals_.drifts.add(*rows_[question].drift);
  }
  if (!result.check_error.empty()) leave_unchecked(result.check_error);
  auto& sums = totals_.phase_seconds;
  sums.resize(std::max(sums.size(), result.phase_seconds.size()), 0.0);
  for (std::size_t i = 0; i < result.phase_seconds.size(); ++i) sums[i] += result.phase_seconds[i];
  rows_.front().phase_seconds = std::move(result.phase_seconds);
  rows_.front().pairs = std::move(result.counts.pairs);
  rows_.front().bytes_sent = std::move(result.counts.bytes_sent);
  rows_.front().full_pairs = result.counts.full_pairs;
  rows_.front().message_seconds = std::move(result.message_seconds);
  rows_.front().selection = std::move(result.selection);
  commit_rows(result.check_seconds);
}

void Coordinator::fill(ResultRow& row, const Partition& partition, Answer& answer) const {
  row.ok = true;
  row.method = name_of(partition.method);
  row.blocks = partition.block_count();
  row.anchor_length = partition.anchor_length;
  row.passing_length = partition.passing_length;
  row.ranks_used = partition.ranks_used();
  row.text = tokenizer_.decode(answer.tokens);
  row.token_ids = std::move(answer.tokens);
  row.finish_reason = answer.stopped ? "stop" : "length";
  if (options_.save_logits) row.logits = std::move(answer.logits);
  row.prefill_seconds = answer.prefill_seconds;
  row.ttft_seconds = answer.first_token_seconds;
  row.decode_seconds = answer.decode_seconds;
  row.phase_seconds.assign(static_cast<std::size_t>(row.ranks_used) * phase_count, 0.0);
  row.pairs.assign(static_cast<std::size_t>(row.ranks_used), 0.0);
  row.bytes_sent = row.pairs;
  row.message_seconds.assign(static_cast<std::size_t>(row.ranks_used), 0.0);
}

void Coordinator::fail_rows(const std::string& why) {
  if (finished_) {
    leave_unchecked(why);
    ++totals_.done;
    queue_.add_done(1);
    return;
  }
  for (ResultRow& row : rows_) row.message = why;
  commit_rows();
}

void Coordinator::leave_unchecked(const std::string& why) {
  progress_.note(fmt::format("{}: not checked against full: {}", rows_.front().id, why));
}

/// Progress counts documents; rows that were finished before stay as they are, unless they have been checked.
void Coordinator::commit_rows(double check_seconds) {
  report_progress(check_seconds);
  if (!writer_) return;
  std::erase_if(rows_, [&](const ResultRow& row) { return is_finished(row) && !row.drift; });
  writer_->commit(std::move(rows_));
}

void Coordinator::report_progress(double check_seconds) {
  const bool failed = !rows_.front().message.empty();
  ++totals_.done;
  if (failed) ++totals_.failed;
  const auto now = std::chrono::steady_clock::now();
  const auto seconds = [&](auto since) { return std::chrono::duration<double>(now - since).count(); };
  std::int64_t tokens = rows_.front().context_length;
  for (const ResultRow& row : rows_) tokens += row.query_length + static_cast<std::int64_t>(row.token_ids.size());
  progress_.done({.number = queue_.add_done(1),
                  .id = rows_.front().id,
                  .message = rows_.front().message,
                  .tokens = failed ? 0 : tokens,
                  .seconds = seconds(document_start_) - check_seconds,
                  .check_seconds = check_seconds},
                 seconds(start_));
}

void Coordinator::close() {
  progress_.finish();
  if (writer_) writer_->flush();
}

ExitCode Coordinator::finish(const JobTotals& all) {
  const DriftSummary drifts = writer_ ? writer_->finish(ids_) : all.drifts;
  if (!all.phase_seconds.empty()) print_breakdown(std::cerr, all.phase_seconds);
  drifts.print(std::cerr);
  if (writer_) {
    std::cerr << fmt::format("{} documents, {} failed; results in {}\n", all.done, all.failed,
                             options_.output.string());
  }
  return all.failed == 0 ? ExitCode::success : ExitCode::some_documents_failed;
}

ExitCode Coordinator::stop(const JobTotals& all) const {
  const std::string advice =
      writer_ ? fmt::format("; {} holds the others, go on with --resume", writer_->folder().string()) : "";
  std::cerr << fmt::format("apb: stopped by a signal: {} of {} documents are left{}\n", document_count() - all.done,
                           document_count(), advice);
  return ExitCode::stopped_early;
}

}  // namespace apb
