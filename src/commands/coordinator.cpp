#include "commands/coordinator.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>

#include "commands/command_line.hpp"
#include "error.hpp"
#include "output/document_key.hpp"
#include "phases.hpp"

namespace apb {
namespace {

constexpr int insert_for_tokens = 16;  // where the question goes in the anchor of pre-tokenised input

std::vector<std::string> ids_of(const std::optional<DocumentFile>& file, const Document& single) {
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
  kept.save_logits = kept.save_selection = false;
  if (kept.method.method == Method::full) kept.method = {.method = Method::full};  // exact in any blocks
  if (kept.method.compressor != CompressorKind::random) kept.method.seed = 0;
  kept.max_new_tokens = max_new_tokens;
  return kept;
}

OpenMode open_mode(const RunOptions& options) {
  if (options.resume) return OpenMode::resume;
  return options.overwrite ? OpenMode::overwrite : OpenMode::refuse_existing;
}

}  // namespace

Coordinator::Coordinator(const RunOptions& options, const ModelConfig& config, RunInfo info)
    : options_(options),
      config_(config),
      file_(options.input.empty() ? std::nullopt : std::optional(DocumentFile::open(options.input))),
      single_(options.input.empty() ? document_from_text_file(options.document, options.question) : Document{}),
      ids_(ids_of(file_, single_)),
      tokenizer_(Tokenizer::load(options.model / "tokenizer.json")),
      template_(choose_template(options.prompt_template, tokenizer_)),
      model_fingerprint_(fingerprint_model(options)),
      progress_(std::cerr, isatty(STDERR_FILENO) != 0, document_count()) {
  if (options.output.empty()) return;
  writer_.emplace(OutputOptions{.file = options.output,
                                .mode = open_mode(options),
                                .saved = {.vocabulary = options.save_logits ? config.vocabulary : 0,
                                          .selection = options.save_selection}},
                  std::move(info));
}

Document Coordinator::read_document(int index) const { return file_ ? file_->read(index) : single_; }

std::string Coordinator::key_of(const Document& document, int max_new_tokens) const {
  const std::string options = options_as_json(options_for_answer(options_, max_new_tokens));
  const std::array<std::string_view, 7> pieces = {options,
                                                  model_fingerprint_,
                                                  document.id,
                                                  document.context,
                                                  document.query,
                                                  bytes_of(document.context_tokens),
                                                  bytes_of(document.query_tokens)};
  return document_key(pieces);
}

Job Coordinator::make_job(const Document& document, ResultRow& row) const {
  if (!document.error.empty()) throw Error(document.error);
  Job job;
  job.lengths.max_new_tokens = document.max_new_tokens.value_or(options_.max_new_tokens);
  if (document.tokenised) {
    job.context = document.context_tokens;
    job.query = document.query_tokens;
    job.lengths.prefix = insert_for_tokens;
    check_vocabulary(job.context, "context_tokens", config_.vocabulary);
    check_vocabulary(job.query, "query_tokens", config_.vocabulary);
  } else {
    Prompt prompt = build_prompt(template_, tokenizer_, document.context, document.query);
    job.context = std::move(prompt.context);
    job.query = std::move(prompt.query);
    job.lengths.prefix = prompt.prefix_length;
  }
  row.context_length = job.lengths.context = static_cast<std::int64_t>(job.context.size());
  row.query_length = job.lengths.query = static_cast<std::int64_t>(job.query.size());
  const std::int64_t positions = job.lengths.context + job.lengths.query + job.lengths.max_new_tokens;
  if (positions > config_.max_positions) {
    fail(
        "{} context + {} query + {} new tokens are more than the model's {} positions: shorten the document or "
        "--max-new-tokens",
        job.lengths.context, job.lengths.query, job.lengths.max_new_tokens, config_.max_positions);
  }
  const std::string hash = document_key(std::array<std::string_view, 1>{document.id});
  job.document = std::stoull(hash.substr(0, 16), nullptr, 16);
  return job;
}

std::optional<Job> Coordinator::next() {
  while (next_document_ < document_count()) {
    document_start_ = std::chrono::steady_clock::now();
    const Document document = read_document(next_document_++);
    row_ = {.id = document.id, .metadata = document.metadata};
    row_.key = key_of(document, document.max_new_tokens.value_or(options_.max_new_tokens));
    if (writer_ && writer_->finished_keys().contains(row_.key)) {
      ++done_;
      continue;
    }
    try {
      return make_job(document, row_);
    } catch (const Error& error) {
      row_.message = error.what();
      commit_row();
    }
  }
  return std::nullopt;
}

void Coordinator::commit(DocumentResult result) {
  row_.ok = result.error.empty();
  row_.message = result.error;
  if (result.partition) {
    const Partition& partition = *result.partition;
    row_.method = name_of(partition.method);
    row_.blocks = partition.block_count();
    row_.anchor_length = partition.anchor_length;
    row_.passing_length = partition.passing_length;
    row_.ranks_used = partition.ranks_used();
  }
  if (row_.ok) {
    row_.text = tokenizer_.decode(result.tokens);
    row_.token_ids = std::move(result.tokens);
    row_.finish_reason = result.stopped ? "stop" : "length";
    row_.logits = std::move(result.logits);
    row_.prefill_seconds = row_.ttft_seconds = result.prefill_seconds;
    row_.decode_seconds = result.decode_seconds;
    phase_seconds_.resize(std::max(phase_seconds_.size(), result.phase_seconds.size()), 0.0);
    for (std::size_t i = 0; i < result.phase_seconds.size(); ++i) phase_seconds_[i] += result.phase_seconds[i];
    row_.phase_seconds = std::move(result.phase_seconds);
    row_.selection = std::move(result.selection);
    if (!file_) std::cout << row_.text << std::endl;
  }
  commit_row();
}

void Coordinator::commit_row() {
  ++done_;
  if (!row_.ok) ++failed_;
  const auto now = std::chrono::steady_clock::now();
  const auto seconds = [&](auto since) { return std::chrono::duration<double>(now - since).count(); };
  const auto tokens = row_.context_length + row_.query_length + static_cast<std::int64_t>(row_.token_ids.size());
  progress_.done(
      {.id = row_.id, .message = row_.message, .tokens = row_.ok ? tokens : 0, .seconds = seconds(document_start_)},
      seconds(start_));
  if (writer_) writer_->commit(std::move(row_));
}

ExitCode Coordinator::finish() {
  progress_.finish();
  if (writer_) writer_->finish(ids_);
  if (!phase_seconds_.empty()) print_breakdown(std::cerr, phase_seconds_);
  if (writer_) {
    std::cerr << fmt::format("{} documents, {} failed; results in {}\n", done_, failed_, options_.output.string());
  }
  return failed_ == 0 ? ExitCode::success : ExitCode::some_documents_failed;
}

ExitCode Coordinator::stop() {
  progress_.finish();
  if (writer_) writer_->flush();
  const std::string advice =
      writer_ ? fmt::format("; {} holds the others, go on with --resume", writer_->folder().string()) : "";
  std::cerr << fmt::format("apb: stopped by a signal: {} of {} documents are left{}\n", document_count() - done_,
                           document_count(), advice);
  return ExitCode::stopped_early;
}

}  // namespace apb
