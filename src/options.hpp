// What a user can ask for: structs with a default and a sentence per field. commands/command_line.cpp binds them to
// CLI11.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device/view.hpp"

namespace apb {

enum class Method { apb, full, ring, ulysses, star };
/// Names of the methods, in the order of the enumeration.
inline constexpr std::array<std::string_view, 5> method_names = {"apb", "full", "ring", "ulysses", "star"};
enum class AnchorPlacement { sharded, replicated };
enum class CompressorKind { retaining_heads, query_similarity, random, recent };

enum class Overlap { automatic, on, off };

/// How a document is cut, compressed and attended to (docs/method.md). Unset values are chosen from the lengths.
struct MethodOptions {
  Method method = Method::apb;
  std::optional<int> blocks;            // B, a multiple of the ranks; default 2 per rank
  std::optional<int> automatic_blocks;  // what an automatic choice begins at; a resumed run keeps that of its output
  std::optional<int> anchor_length;     // a in tokens, question included; 0: no anchor
  std::optional<int> passing_length;    // p in tokens per block and KV head; 0: nothing is passed
  std::optional<int> query_insert;  // context tokens before the question in the anchor; default: the template's prefix
  bool anchor_query = true;         // the anchor holds the question
  AnchorPlacement anchor_placement = AnchorPlacement::sharded;
  CompressorKind compressor = CompressorKind::query_similarity;
  std::uint64_t seed = 0;  // of the random compressor
};

struct RunOptions {
  std::filesystem::path model;     // folder of a Hugging Face checkpoint
  std::filesystem::path input;     // JSON Lines, one document a line
  std::filesystem::path output;    // HDF5 results
  std::filesystem::path document;  // one text file instead of --input
  std::string question;            // ... and its question; the answer goes to standard output
  MethodOptions method;
  std::filesystem::path retaining_heads;  // safetensors of the retaining heads
  int max_new_tokens = 128;               // tokens to generate at most
  std::string device = "auto";            // auto, cpu, cuda
  std::string dtype = "bf16";             // bf16 or fp32
  int threads = 0;                        // per rank; 0: SLURM_CPUS_PER_TASK, else the cores bound to the rank
  std::string prompt_template = "auto";   // auto, none, llama2, llama3, chatml
  bool save_logits = false;               // float32 logits of every generated token
  bool save_selection = false;            // positions that each block passed on
  Overlap overlap = Overlap::automatic;   // attend to own blocks during the exchange; auto: if ranks span hosts
  double timeout = 0;                     // seconds that ranks wait for one that does not answer; 0: for ever
  bool resume = false;                    // continue an output: only what is missing
  bool overwrite = false;                 // replace an output
};

/// What apb bench measures.
struct BenchOptions {
  RunOptions run;                           // what it has in common with run: model, method, device, output
  std::string shape;                        // a random model of this shape instead of a folder
  std::optional<int> layers;                // the first ones only
  std::vector<int> lengths = {2048, 8192};  // context tokens
  int query_length = 32;                    // tokens
  int decode_tokens = 16;                   // after the first; 0: no decoding
  int warmup = 1;                           // repetitions that do not count
  int repeats = 5;
  bool roofline = false;  // measure the peaks, too, and compare each phase with them
  int emulate_ranks = 0;  // ranks that take turns in this process; 0: those of MPI
};

/// What apb plan is about.
struct PlanOptions {
  std::filesystem::path model;  // folder of a Hugging Face checkpoint
  std::string shape;            // a known shape instead
  std::optional<int> layers;    // the first ones only
  MethodOptions method;
  int ranks = 1;
  int context_length = 0;  // tokens
  int query_length = 32;   // tokens
};

}  // namespace apb
