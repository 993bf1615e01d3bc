#include "output/parts.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <utility>

#include "error.hpp"
#include "output/durable_file.hpp"

namespace apb {

namespace {

namespace fs = std::filesystem;

/// The number in a name like part-000123.h5.
std::optional<int> part_number(const std::string& name) {
  constexpr std::string_view prefix = "part-";
  constexpr std::string_view suffix = ".h5";
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  const char* end = name.data() + name.size() - suffix.size();
  int number = 0;
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, number);
  return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

struct Part {
  int number;
  fs::path path;
};

/// The parts in a folder, oldest first; none if there is no folder.
std::vector<Part> parts_in(const fs::path& folder) {
  std::vector<Part> parts;
  if (!fs::is_directory(folder)) return parts;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (const auto number = part_number(entry.path().filename().string())) parts.push_back({*number, entry.path()});
  }
  std::ranges::sort(parts, {}, &Part::number);
  return parts;
}

/// In the parts folder while FILE.h5 is being overwritten: the run that goes on does not include FILE.h5's rows.
fs::path overwriting_mark(const fs::path& folder) { return folder / "overwriting"; }

Results read_part(const fs::path& path, Arrays arrays) {
  try {
    return read_results(path, arrays);
  } catch (const Error& error) {
    fail("{}; delete this part to have its documents answered again", error.what());
  }
}

/// Adds a row, or puts it in the place of the older row with its id.
void add_row(std::vector<ResultRow>& rows, std::unordered_map<std::string, std::size_t>& places, ResultRow row) {
  const auto [place, is_new] = places.try_emplace(row.id, rows.size());
  if (is_new) {
    rows.push_back(std::move(row));
    return;
  }
  ResultRow& older = rows[place->second];
  const bool keep_older = older.ok && !row.ok && older.key == row.key;
  if (!keep_older) older = std::move(row);
}

/// Rows in the order of `ids`; rows that are not named keep their order and come after.
void order_rows(std::vector<ResultRow>& rows, const std::vector<std::string>& ids) {
  std::unordered_map<std::string, std::size_t> places;
  for (const auto& id : ids) places.try_emplace(id, places.size());
  std::ranges::stable_sort(rows, {}, [&](const ResultRow& row) {
    const auto place = places.find(row.id);
    return place == places.end() ? places.size() : place->second;
  });
}

}  // namespace

std::optional<RunInfo> find_run(const fs::path& file) {
  const fs::path folder = file.string() + ".parts";
  if (fs::exists(file) && !fs::exists(overwriting_mark(folder))) return read_results(file, Arrays::skip).info;
  const auto parts = parts_in(folder);
  if (parts.empty()) return std::nullopt;
  return read_part(parts.front().path, Arrays::skip).info;
}

Results read_parts(const fs::path& folder) {
  Results all;
  std::unordered_map<std::string, std::size_t> places;
  for (const auto& part : parts_in(folder)) {
    Results results = read_part(part.path, Arrays::skip);
    all.info = std::move(results.info);
    for (auto& row : results.rows) add_row(all.rows, places, std::move(row));
  }
  if (all.rows.empty()) fail("{}: no part of a results file is in this folder", folder.string());
  return all;
}

ResultsWriter::ResultsWriter(OutputOptions options, RunInfo info)
    : options_(std::move(options)), info_(std::move(info)), folder_(options_.file.string() + ".parts") {
  const bool first = options_.group == 0;
  if (first && options_.mode == OpenMode::refuse_existing) refuse_existing();
  lock();
  if (first) remove_leftovers();
  if (first && options_.mode == OpenMode::overwrite) remove_parts();
  for (const auto& row : collect(Arrays::skip)) {
    if (row.ok) finished_keys_.insert(row.key);
    if (row.drift) earlier_drifts_.emplace(row.key, *row.drift);
  }
  const auto parts = parts_in(folder_);
  next_part_ = (parts.empty() ? 0 : parts.back().number) + 1 + options_.group;
}

void ResultsWriter::refuse_existing() const {
  const bool folder_in_use = !parts_in(folder_).empty() || fs::exists(FolderLock::path_in(folder_));
  if (!fs::exists(options_.file) && !folder_in_use) return;
  fail("{} exists already; go on with it with --resume or replace it with --overwrite",
       folder_in_use ? folder_.string() : options_.file.string());
}

void ResultsWriter::lock() {
  if (fs::is_directory(options_.file)) fail("{} is a folder; --output names a file", options_.file.string());
  lock_.emplace(folder_, options_.group);
}

/// Removes what a process that was killed while it wrote has left.
void ResultsWriter::remove_leftovers() const {
  std::error_code ignored;
  fs::remove(temporary_name(options_.file), ignored);
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (entry.path().extension() == ".tmp") fs::remove(entry.path(), ignored);
  }
}

void ResultsWriter::remove_parts() const {
  // The mark goes first: while it is there, FILE.h5 does not count, and the parts would be all there is.
  std::error_code error;
  fs::remove(overwriting_mark(folder_), error);
  for (const auto& part : parts_in(folder_)) {
    if (!error) fs::remove(part.path, error);
  }
  if (error) fail("{}: its parts cannot be removed: {}", folder_.string(), error.message());
}

void ResultsWriter::check_saved_arrays(const fs::path& source, const SavedArrays& saved) const {
  if (saved == options_.saved) return;
  const auto describe = [](const SavedArrays& arrays) {
    const auto logits = arrays.vocabulary == 0 ? "no logits" : fmt::format("logits of {} tokens", arrays.vocabulary);
    return fmt::format("{} and {}", logits, arrays.selection ? "selection" : "no selection");
  };
  fail(
      "{}: holds {}, this run saves {}; resume with the --save-logits and --save-selection it began with, or "
      "--overwrite it",
      source.string(), describe(saved), describe(options_.saved));
}

/// Whether FILE.h5 is there and is not being overwritten, by this run or by one that it resumes.
bool ResultsWriter::file_counts() const {
  return options_.mode != OpenMode::overwrite && fs::exists(options_.file) && !fs::exists(overwriting_mark(folder_));
}

/// The rows of FILE.h5 and the parts as they stand, each id once.
std::vector<ResultRow> ResultsWriter::collect(Arrays arrays) const {
  std::vector<ResultRow> rows;
  std::unordered_map<std::string, std::size_t> places;
  const auto add = [&](const fs::path& source, Results results) {
    check_saved_arrays(source, results.saved);
    for (auto& row : results.rows) add_row(rows, places, std::move(row));
  };
  if (file_counts()) add(options_.file, read_results(options_.file, arrays));
  for (const auto& part : parts_in(folder_)) add(part.path, read_part(part.path, arrays));
  return rows;
}

void ResultsWriter::commit(std::vector<ResultRow> rows) {
  for (ResultRow& row : rows) {
    std::erase_if(waiting_, [&](const ResultRow& older) { return older.id == row.id; });
    waiting_.push_back(std::move(row));
  }
  if (std::chrono::steady_clock::now() - last_part_ >= options_.part_interval) flush();
}

void ResultsWriter::flush() {
  if (waiting_.empty()) return;
  const auto mark = overwriting_mark(folder_);
  if (options_.mode == OpenMode::overwrite && !std::ofstream(mark)) fail("{}: cannot be written", mark.string());
  const auto path = folder_ / fmt::format("part-{:06}.h5", next_part_);
  write_results(path, info_, std::exchange(waiting_, {}), options_.saved);
  next_part_ += options_.groups;  // so no two groups have a number in common
  last_part_ = std::chrono::steady_clock::now();
}

DriftSummary ResultsWriter::finish(const std::vector<std::string>& ids) {
  flush();
  auto rows = collect(Arrays::load);
  order_rows(rows, ids);
  const DriftSummary drifts(rows);
  write_results(options_.file, info_, std::move(rows), options_.saved);
  remove_parts();
  return drifts;
}

}  // namespace apb
