// The results file: what it holds, written as a whole and read back. docs/outputs.md describes the schema.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace apb {

namespace h5 {
class File;
}

/// Which context positions were passed on, [layers, blocks, kv_heads, p], -1 where nothing.
struct SelectionRecord {
  int layers = 0;
  int blocks = 0;
  int kv_heads = 0;
  int p = 0;
  std::vector<std::int32_t> positions;
};

/// How far an answer is from that of the exact method, over the tokens up to and including the first that differs.
struct Drift {
  float largest_logit_difference = 0;
  std::int32_t first_differing_token = -1;  // of the answer, from 0; -1: none

  bool answers_equal() const { return first_differing_token < 0; }
  bool operator==(const Drift&) const = default;
};

/// One question about one document: what was asked, what came out, and how long it took.
struct ResultRow {
  std::string id;
  std::string key;
  bool ok = false;
  std::string message;  // why it failed; empty if ok
  std::int64_t context_length = 0;
  std::int64_t query_length = 0;
  std::string metadata;  // JSON text, or empty
  std::string method;
  int blocks = 0;
  int anchor_length = 0;
  int passing_length = 0;
  int ranks_used = 0;
  std::string text;
  std::vector<std::int32_t> token_ids;
  std::string finish_reason;  // stop or length; empty if failed
  std::vector<float> logits;  // [tokens, vocabulary], if saved
  double ttft_seconds = 0;
  double decode_seconds = 0;
  double prefill_seconds = 0;
  std::vector<double> phase_seconds;    // [ranks_used, phases]; empty if failed
  std::vector<double> message_seconds;  // [ranks_used], communication, waited for or not; empty if failed
  std::vector<double> pairs;            // [ranks_used], query-key pairs of the prefill; empty if failed
  std::vector<double> bytes_sent;       // [ranks_used], in the prefill; empty if failed
  double full_pairs = 0;                // what exact attention needs
  SelectionRecord selection;            // if saved
  std::optional<Drift> drift{};         // if checked
};

/// What is needed to repeat the run.
struct RunInfo {
  std::string version;
  std::string command_line;
  std::string options;  // JSON text
  std::string model;
  int ranks = 0;
  std::vector<std::string> hosts;
  std::vector<std::string> devices;
  std::string dtype;
  std::string start_time;  // UTC, ISO 8601
};

/// The optional large arrays of a file.
struct SavedArrays {
  std::int64_t vocabulary = 0;  // width of the logits; 0 if they are not saved
  bool selection = false;
  bool operator==(const SavedArrays&) const = default;
};

struct Results {
  RunInfo info;
  SavedArrays saved;
  std::vector<ResultRow> rows;
};

/// The attributes of the group `run`.
void write_run(h5::File& file, const RunInfo& info);

/// Writes a complete results file, in one step: it is there whole or not at all (see replace_file). Rows are padded
/// to the largest number of ranks, blocks and passing tokens. Each row's logits are freed once they are in the file.
void write_results(const std::filesystem::path& path, const RunInfo& info, std::vector<ResultRow> rows,
                   const SavedArrays& saved);

enum class Arrays { load, skip };

/// Reads a results or part file; with Arrays::skip logits and selection are left out. An error names the file.
Results read_results(const std::filesystem::path& path, Arrays arrays = Arrays::load);

}  // namespace apb
