#include "commands/command_line.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "model/shapes.hpp"

namespace apb {
namespace {

template <typename Value>
using Names = std::map<std::string, Value>;

const Names<Method>& methods() {
  static const Names<Method> names = [] {
    Names<Method> all;
    for (std::size_t i = 0; i < method_names.size(); ++i) all[std::string(method_names[i])] = static_cast<Method>(i);
    return all;
  }();
  return names;
}

const Names<AnchorPlacement>& anchor_placements() {
  static const Names<AnchorPlacement> names = {{"sharded", AnchorPlacement::sharded},
                                               {"replicated", AnchorPlacement::replicated}};
  return names;
}

const Names<Overlap>& overlaps() {
  static const Names<Overlap> names = {{"auto", Overlap::automatic}, {"on", Overlap::on}, {"off", Overlap::off}};
  return names;
}

const Names<CompressorKind>& compressors() {
  static const Names<CompressorKind> names = {{"retaining-heads", CompressorKind::retaining_heads},
                                              {"query-similarity", CompressorKind::query_similarity},
                                              {"random", CompressorKind::random},
                                              {"recent", CompressorKind::recent}};
  return names;
}

template <typename Value>
std::string name_in(const Names<Value>& names, Value value) {
  return std::find_if(names.begin(), names.end(), [&](const auto& entry) { return entry.second == value; })->first;
}

/// An option that takes one of the names; help and messages list them.
template <typename Value>
CLI::Option* add_choice(CLI::App& app, const std::string& name, Value& value, const Names<Value>& names,
                        const std::string& description) {
  std::string listed;
  for (const auto& [text, unused] : names) listed += (listed.empty() ? "" : "|") + text;
  const auto set = [&value, &names, listed, name](const std::string& text) {
    const auto found = names.find(text);
    if (found == names.end()) throw CLI::ValidationError(name, "'" + text + "' is not one of " + listed);
    value = found->second;
  };
  std::string default_name;
  for (const auto& [text, candidate] : names) {
    if (candidate == value) default_name = text;
  }
  return app.add_option_function<std::string>(name, set, description)->type_name(listed)->default_str(default_name);
}

CLI::Option* add_text_choice(CLI::App& app, const std::string& name, std::string& value,
                             const std::vector<std::string>& choices, const std::string& description) {
  return app.add_option(name, value, description)->check(CLI::IsMember(choices))->capture_default_str();
}

/// A number for which `allows` holds; else the message says what it has to be.
CLI::Validator number_check(bool (*allows)(double), const std::string& expected, const std::string& type_name) {
  const auto check = [=](const std::string& text) {
    double number = 0;
    const bool fits = CLI::detail::lexical_cast(text, number) && allows(number);
    return fits ? std::string() : fmt::format("'{}' is no number {}", text, expected);
  };
  return {check, type_name};
}

CLI::Validator positive() {
  return number_check([](double number) { return number > 0; }, "above 0", "POSITIVE");
}

CLI::Validator not_negative() {
  return number_check([](double number) { return number >= 0; }, "from 0 on", "NONNEGATIVE");
}

void bind_template(CLI::App& app, std::string& name) {
  add_text_choice(app, "--template", name, {"auto", "none", "llama2", "llama3", "chatml"},
                  "prompt template; auto: the one that the tokenizer has the control tokens of");
}

void bind_method(CLI::App& app, MethodOptions& method, const Names<bool>& on_off) {
  add_choice(
      app, "--method", method.method, methods(),
      "apb: the method of the paper; star: the first block as anchor, nothing passed; exact: full (all-gather),\n"
      "ring (K/V travel around the ranks), ulysses (each rank attends for some heads)");
  app.add_option("--blocks", method.blocks, "blocks that the context is cut into, a multiple of the ranks [2 per rank]")
      ->check(positive());
  app.add_option("--anchor-length", method.anchor_length,
                 "tokens of the anchor, question included; 0: none [from the lengths]")
      ->check(not_negative());
  app.add_option("--passing-length", method.passing_length,
                 "entries that a block passes on per KV head; 0: none [from the lengths]")
      ->check(not_negative());
  app.add_option("--query-insert", method.query_insert,
                 "context tokens before the question in the anchor [the template's prefix; 16 for tokens]")
      ->check(not_negative());
  add_choice(app, "--anchor-query", method.anchor_query, on_off, "whether the anchor holds the question");
  add_choice(app, "--anchor-placement", method.anchor_placement, anchor_placements(),
             "compute the anchor once over all ranks, or whole on each");
  add_choice(app, "--compressor", method.compressor, compressors(), "what scores the tokens that blocks pass on");
  app.add_option("--seed", method.seed, "seed of --compressor random")->capture_default_str();
}

/// What run and bench have in common.
void bind_shared(CLI::App& app, RunOptions& run, const Names<bool>& on_off) {
  bind_method(app, run.method, on_off);
  app.add_option("--retaining-heads", run.retaining_heads, "safetensors file for --compressor retaining-heads");
  add_choice(app, "--overlap", run.overlap, overlaps(),
             "attend to own blocks while ranks exchange; auto: where the ranks span hosts");
  add_text_choice(app, "--device", run.device, {"auto", "cpu", "cuda"},
                  "where to compute; auto: a GPU for each rank where there is one, else the CPU");
  add_text_choice(app, "--dtype", run.dtype, {"bf16", "fp32"},
                  "type of weights, activations and KV cache; GPUs compute in bf16");
  app.add_option("--threads", run.threads, "threads per rank [SLURM_CPUS_PER_TASK, else the rank's share of the cores]")
      ->check(positive());
  app.add_option("--timeout", run.timeout, "end the run when ranks wait longer than this for one, in seconds [never]")
      ->check(positive());
}

void bind_run(CLI::App& app, RunOptions& run, const Names<bool>& on_off) {
  app.add_option("--model", run.model, "folder of a Hugging Face checkpoint")->required();
  app.add_option("--input", run.input, "JSON Lines, one document a line");
  app.add_option("--output", run.output, "HDF5 file for answers and timings");
  app.add_option("--document", run.document, "one text file instead of --input");
  app.add_option("--question", run.question, "the question about --document; the answer goes to standard output");
  bind_shared(app, run, on_off);
  app.add_option("--ranks-per-document", run.ranks_per_document,
                 "ranks that share a document; groups of so many answer documents side by side [all]")
      ->check(positive());
  app.add_option("--max-new-tokens", run.max_new_tokens, "tokens to generate at most")
      ->check(positive())
      ->capture_default_str();
  bind_template(app, run.prompt_template);
  app.add_flag("--save-logits", run.save_logits, "store the logits of every generated token");
  app.add_flag("--save-selection", run.save_selection, "store the positions that every block passes on");
  app.add_option("--check-dense", run.check_dense, "answer this many documents exactly, too, and store the difference")
      ->check(not_negative());
  app.get_option("--seed")->description("seed of --compressor random and of --check-dense");
  auto* resume = app.add_flag("--resume", run.resume, "continue an output: answer only what is missing");
  app.add_flag("--overwrite", run.overwrite, "replace an output that exists")->excludes(resume);
}

void bind_bench(CLI::App& app, BenchOptions& bench, const Names<bool>& on_off) {
  app.add_option("--model", bench.run.model, "folder of a Hugging Face checkpoint");
  add_text_choice(app, "--shape", bench.shape, shape_names(), "instead of --model: random weights of a known shape")
      ->excludes("--model");
  app.add_option("--layers", bench.layers, "only the first layers [all]")->check(positive());
  app.add_option("--lengths", bench.lengths, "context tokens, e.g. 2048,8192")
      ->delimiter(',')
      ->check(positive())
      ->capture_default_str();
  app.add_option("--query-length", bench.query_length, "tokens of the question")
      ->check(positive())
      ->capture_default_str();
  app.add_option("--decode-tokens", bench.decode_tokens, "tokens to decode after the first; 0: none")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--warmup", bench.warmup, "repetitions that do not count")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--repeats", bench.repeats, "repetitions that count")->check(positive())->capture_default_str();
  app.add_flag("--roofline", bench.roofline, "measure what the machine can do, and each phase's share of it");
  app.add_option("--emulate-ranks", bench.emulate_ranks, "time this many ranks on the CPU of one process, in turns")
      ->check(CLI::Range(1, 1024));
  app.add_option("--output", bench.run.output, "HDF5 file for all times");
  app.add_flag("--overwrite", bench.run.overwrite, "replace an output that exists");
  bind_shared(app, bench.run, on_off);
}

void bind_plan(CLI::App& app, PlanOptions& plan, const Names<bool>& on_off) {
  app.add_option("--model", plan.model, "folder of a Hugging Face checkpoint");
  add_text_choice(app, "--shape", plan.shape, shape_names(), "instead of --model: a known shape")->excludes("--model");
  app.add_option("--layers", plan.layers, "only the first layers [all]")->check(positive());
  app.add_option("--ranks", plan.ranks, "ranks to plan for")->check(positive())->capture_default_str();
  app.add_option("--context-length", plan.context_length, "context tokens")->check(positive())->required();
  app.add_option("--query-length", plan.query_length, "tokens of the question")
      ->check(positive())
      ->capture_default_str();
  bind_method(app, plan.method, on_off);
}

void bind_generate(CLI::App& app, GenerateOptions& generate) {
  app.add_option("suite", generate.suite, "the benchmark: ruler or infinitebench")->required();
  app.add_option("--task", generate.tasks, "one or more tasks of the suite, separated by commas, or all")
      ->delimiter(',')
      ->required();
  app.add_option("--model", generate.model, "folder of a Hugging Face checkpoint: its tokenizer counts")->required();
  app.add_option("--length", generate.length, "tokens of the prompt: document and question with template")
      ->check(positive())
      ->required();
  app.add_option("--count", generate.count, "samples of each task")->check(positive())->capture_default_str();
  app.add_option("--seed", generate.seed, "the same seed gives the same file")->capture_default_str();
  app.add_option("--output", generate.output, "JSON Lines file, input of apb run")->required();
  app.add_flag("--overwrite", generate.overwrite, "replace an output that exists");
  bind_template(app, generate.prompt_template);
  app.add_option("--words", generate.words, "words for keys and lists, one a line [built in]");
  app.add_option("--essays", generate.essays, "prose to hide needles in: a text file or a folder of them [built in]");
  app.add_option("--squad", generate.squad, "SQuAD's JSON, for qa_1");
  app.add_option("--hotpotqa", generate.hotpotqa, "HotpotQA's JSON, for qa_2");
  app.add_option("--data", generate.data,
                 "a published JSONL file of InfiniteBench: its first --count samples, at most --length tokens each");
}

void bind_score(CLI::App& app, ScoreOptions& score) {
  app.add_option("files", score.files, "results files, a column each; FILE.h5.parts while a run goes on")->required();
  app.add_option("--json", score.json, "JSON file for the scores with all digits, every row's score, and times");
}

/// What run and bench cannot combine.
std::string mismatch(const RunOptions& run) {
  if (run.device == "cuda" && run.dtype != "bf16") return "--device cuda computes in bf16: leave --dtype fp32 out";
  return {};
}

std::string retaining_heads_mismatch(const RunOptions& run) {
  const bool wants_heads = run.method.compressor == CompressorKind::retaining_heads && run.method.method == Method::apb;
  if (wants_heads && run.retaining_heads.empty()) return "--compressor retaining-heads needs --retaining-heads FILE";
  if (!run.retaining_heads.empty() && !wants_heads) return "--retaining-heads goes with --compressor retaining-heads";
  return {};
}

/// What CLI11 cannot say option by option.
std::string inconsistency(const RunOptions& run) {
  if (run.input.empty() == run.document.empty()) return "give either --input FILE.jsonl or --document FILE.txt";
  if (!run.input.empty() && run.output.empty()) return "--output FILE.h5 is missing";
  if (!run.input.empty() && !run.question.empty()) return "--question goes with --document; --input holds its own";
  if (!run.document.empty() && run.question.empty()) return "--question \"...\" is missing";
  if (const Method method = run.method.method; run.check_dense > 0 && method != Method::apb && method != Method::star) {
    return fmt::format("--check-dense compares with --method full, and --method {} is exact: leave --check-dense out",
                       name_of(method));
  }
  if (const std::string why = mismatch(run); !why.empty()) return why;
  return retaining_heads_mismatch(run);
}

/// The subcommand of a subcommand that was named last; the program itself where none was.
const CLI::App& innermost(const CLI::App& app) {
  const CLI::App* found = &app;
  while (!found->get_subcommands().empty()) found = found->get_subcommands().front();
  return *found;
}

/// What is wrong with the command line, and where help is.
std::string usage_message(const CLI::App& app, std::span<const char* const> words, const CLI::ParseError& error) {
  const CLI::App& last = innermost(app);
  std::string path;
  std::size_t next = 1;  // word behind the subcommands
  for (const CLI::App* named = &last; named != &app; named = named->get_parent(), ++next) {
    path = named->get_name() + " " + path;
  }
  const bool wants_another = !last.get_subcommands({}).empty() && (next == 1 || words[next - 1] == last.get_name());
  const bool unknown = wants_another && next < words.size() && words[next][0] != '-';
  const std::string what = unknown ? fmt::format("'{}' is no subcommand", words[next]) : error.what();
  return fmt::format("apb: {}; 'apb {}--help' lists the options\n", what, path);
}

constexpr const char* no_model = "give either --model FOLDER or --shape NAME";

std::string inconsistency(const PlanOptions& plan) { return plan.model.empty() && plan.shape.empty() ? no_model : ""; }

std::string inconsistency(const BenchOptions& bench) {
  if (bench.run.model.empty() && bench.shape.empty()) return no_model;
  if (const std::string why = mismatch(bench.run); !why.empty()) return why;
  if (bench.emulate_ranks > 0 && bench.run.device == "cuda") return "--emulate-ranks goes with --device cpu";
  const bool makes_heads = !bench.shape.empty() && bench.run.retaining_heads.empty();  // random ones
  return makes_heads ? "" : retaining_heads_mismatch(bench.run);
}

}  // namespace

std::string name_of(Method value) { return name_in(methods(), value); }
std::string name_of(AnchorPlacement value) { return name_in(anchor_placements(), value); }
std::string name_of(CompressorKind value) { return name_in(compressors(), value); }

CommandLine parse_command_line(int argc, const char* const* argv) {
  CommandLine line;
  const Names<bool> on_off = {{"on", true}, {"off", false}};
  CLI::App app("Answers questions about documents that are too long for one accelerator.", "apb");
  app.set_version_flag("--version", APB_VERSION);
  app.require_subcommand(1);
  app.set_config("--config", "", "TOML file with the options of a subcommand under its name, e.g. [run]");
  app.fallthrough();
  app.get_formatter()->column_width(34);
  auto* run = app.add_subcommand("run", "Answer the questions of a file over all MPI ranks")->configurable();
  bind_run(*run, line.run, on_off);
  auto* bench = app.add_subcommand("bench", "Time prefill and decoding over all MPI ranks")->configurable();
  bind_bench(*bench, line.bench, on_off);
  auto* plan = app.add_subcommand("plan", "Show who would compute and send what, as JSON; computes nothing");
  bind_plan(*plan, line.plan, on_off);
  auto* tasks = app.add_subcommand("tasks", "Make tasks with known answers, and score answers")->require_subcommand(1);
  auto* generate = tasks->add_subcommand("generate", "Make a benchmark's samples at an exact length in tokens");
  bind_generate(*generate, line.generate);
  auto* score = tasks->add_subcommand("score", "Score the answers in results files by task and length");
  bind_score(*score, line.score);
  auto* report = app.add_subcommand("report", "Show what is in a results file");
  report->add_option("file", line.report.file, "results or part file")->required();
  report->add_flag("--jsonl", line.report.jsonl, "one JSON object a row");

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.message = innermost(app).help();
    return line;
  } catch (const CLI::CallForVersion& version) {
    line.message = std::string(version.what()) + "\n";
    return line;
  } catch (const CLI::ParseError& error) {
    line.message = usage_message(app, std::span(argv, static_cast<std::size_t>(argc)), error);
    line.exit_code = ExitCode::wrong_usage;
    return line;
  }
  std::string why;
  if (run->parsed()) {
    line.command = Command::run;
    why = inconsistency(line.run);
  } else if (bench->parsed()) {
    line.command = Command::bench;
    why = inconsistency(line.bench);
  } else if (plan->parsed()) {
    line.command = Command::plan;
    why = inconsistency(line.plan);
  } else if (generate->parsed()) {
    line.command = Command::tasks_generate;
  } else if (score->parsed()) {
    line.command = Command::tasks_score;
  } else {
    line.command = Command::report;
  }
  if (!why.empty()) {
    return {.message = "apb: " + why + "\n", .exit_code = ExitCode::wrong_usage};
  }
  return line;
}

std::string options_as_json(const RunOptions& options) {
  const MethodOptions& method = options.method;
  const auto or_auto = [](const std::optional<int>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json("auto");
  };
  const nlohmann::ordered_json json = {{"model", options.model.string()},
                                       {"input", options.input.string()},
                                       {"document", options.document.string()},
                                       {"method", name_of(method.method)},
                                       {"blocks", or_auto(method.blocks)},
                                       {"automatic_blocks", or_auto(method.automatic_blocks)},
                                       {"anchor_length", or_auto(method.anchor_length)},
                                       {"passing_length", or_auto(method.passing_length)},
                                       {"query_insert", or_auto(method.query_insert)},
                                       {"anchor_query", method.anchor_query ? "on" : "off"},
                                       {"anchor_placement", name_of(method.anchor_placement)},
                                       {"compressor", name_of(method.compressor)},
                                       {"retaining_heads", options.retaining_heads.string()},
                                       {"seed", method.seed},
                                       {"ranks_per_document", options.ranks_per_document},
                                       {"max_new_tokens", options.max_new_tokens},
                                       {"device", options.device},
                                       {"dtype", options.dtype},
                                       {"threads", options.threads},
                                       {"overlap", name_in(overlaps(), options.overlap)},
                                       {"template", options.prompt_template},
                                       {"save_logits", options.save_logits},
                                       {"save_selection", options.save_selection},
                                       {"check_dense", options.check_dense}};
  return json.dump();
}

std::string options_as_json(const BenchOptions& options) {
  auto json = nlohmann::ordered_json::parse(options_as_json(options.run));
  json["shape"] = options.shape;
  if (options.layers) json["layers"] = *options.layers;
  json["lengths"] = options.lengths;
  json["query_length"] = options.query_length;
  json["decode_tokens"] = options.decode_tokens;
  json["warmup"] = options.warmup;
  json["repeats"] = options.repeats;
  json["emulate_ranks"] = options.emulate_ranks;
  return json.dump();
}

std::optional<int> automatic_blocks_in(const std::string& options) {
  const auto json = nlohmann::json::parse(options, nullptr, false);
  const auto found = json.is_object() ? json.find("automatic_blocks") : json.end();
  if (found == json.end() || !found->is_number_integer() || found->get<int>() < 1) return std::nullopt;
  return found->get<int>();
}

}  // namespace apb
