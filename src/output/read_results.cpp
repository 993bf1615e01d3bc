#include <algorithm>

#include "error.hpp"
#include "output/hdf5.hpp"
#include "output/results.hpp"
#include "phases.hpp"

namespace apb {

namespace {

RunInfo read_run(const h5::File& file) {
  return {.version = file.text_attribute("run", "version"),
          .command_line = file.text_attribute("run", "command_line"),
          .options = file.text_attribute("run", "options"),
          .model = file.text_attribute("run", "model"),
          .ranks = static_cast<int>(file.integer_attribute("run", "ranks")),
          .hosts = file.texts_attribute("run", "hosts"),
          .devices = file.texts_attribute("run", "devices"),
          .dtype = file.text_attribute("run", "dtype"),
          .start_time = file.text_attribute("run", "start_time")};
}

/// Reads columns into the fields of rows.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path.string()), file_(h5::File::open(path)) {
    if (!file_.has("documents/id") || !file_.has("run")) fail("{}: this is not a results file of apb", path_);
    rows_.resize(file_.shape("documents/id").at(0));
  }

  Results read(Arrays arrays) {
    Results results;
    results.info = read_run(file_);
    if (file_.has("outputs/logits"))
      results.saved.vocabulary = static_cast<std::int64_t>(shape_of("outputs/logits", 2)[1]);
    results.saved.selection = file_.has("selection/positions");
    read_columns();
    read_tokens(arrays == Arrays::load ? static_cast<hsize_t>(results.saved.vocabulary) : 0);
    read_phases();
    if (file_.has("drift/row")) read_drift();
    read_by_rank("timings/communication_whole_seconds", &ResultRow::message_seconds);
    read_by_rank("timings/pairs", &ResultRow::pairs);
    read_by_rank("timings/bytes_sent", &ResultRow::bytes_sent);
    if (results.saved.selection && arrays == Arrays::load) read_selection();
    results.rows = std::move(rows_);
    return results;
  }

 private:
  h5::Shape shape_of(const std::string& dataset, std::size_t axes) const {
    auto shape = file_.shape(dataset);
    if (shape.size() != axes) fail("{}: {} has {} axes, {} expected", path_, dataset, shape.size(), axes);
    return shape;
  }

  template <typename Value, typename Set>
  void scatter(const std::string& dataset, std::vector<Value> values, Set set) {
    if (values.size() != rows_.size()) {
      fail("{}: {} has {} rows, {} expected", path_, dataset, values.size(), rows_.size());
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) set(rows_[i], std::move(values[i]));
  }

  template <typename T>
  void numbers(const std::string& dataset, T ResultRow::*field) {
    scatter(dataset, file_.read<T>(dataset), [field](ResultRow& row, T value) { row.*field = value; });
  }

  void texts(const std::string& dataset, std::string ResultRow::*field) {
    scatter(dataset, file_.read_texts(dataset),
            [field](ResultRow& row, std::string value) { row.*field = std::move(value); });
  }

  void read_columns() {
    texts("documents/id", &ResultRow::id);
    texts("documents/key", &ResultRow::key);
    scatter("documents/status", file_.read_texts("documents/status"),
            [](ResultRow& row, const std::string& status) { row.ok = status == "ok"; });
    texts("documents/message", &ResultRow::message);
    numbers("documents/context_length", &ResultRow::context_length);
    numbers("documents/query_length", &ResultRow::query_length);
    texts("documents/metadata", &ResultRow::metadata);
    texts("documents/method", &ResultRow::method);
    numbers("documents/blocks", &ResultRow::blocks);
    numbers("documents/anchor_length", &ResultRow::anchor_length);
    numbers("documents/passing_length", &ResultRow::passing_length);
    numbers("documents/ranks_used", &ResultRow::ranks_used);
    texts("outputs/text", &ResultRow::text);
    texts("outputs/finish_reason", &ResultRow::finish_reason);
    numbers("timings/ttft_seconds", &ResultRow::ttft_seconds);
    numbers("timings/decode_seconds", &ResultRow::decode_seconds);
    numbers("timings/prefill_seconds", &ResultRow::prefill_seconds);
    if (file_.has("timings/full_pairs")) numbers("timings/full_pairs", &ResultRow::full_pairs);
  }

  void read_tokens(hsize_t vocabulary) {
    const auto tokens = file_.read<std::int32_t>("outputs/token_ids");
    const auto offsets = file_.read<std::int64_t>("outputs/token_offsets");
    if (offsets.size() != rows_.size() + 1 || offsets.front() != 0 || !std::ranges::is_sorted(offsets) ||
        offsets.back() != static_cast<std::int64_t>(tokens.size())) {
      fail("{}: outputs/token_offsets do not cover outputs/token_ids", path_);
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].token_ids.assign(tokens.begin() + offsets[i], tokens.begin() + offsets[i + 1]);
      if (vocabulary == 0) continue;
      const auto first = static_cast<hsize_t>(offsets[i]);
      rows_[i].logits =
          file_.read_block<float>("outputs/logits", {{first, 0}, {rows_[i].token_ids.size(), vocabulary}});
    }
  }

  /// The ranks that a row used, of the file's axis of `ranks`.
  hsize_t ranks_used(std::size_t row, const std::string& dataset, hsize_t ranks) const {
    const auto used = static_cast<hsize_t>(rows_[row].ranks_used);
    if (used > ranks) fail("{}: {} has {} ranks, row {} has {}", path_, dataset, ranks, row, used);
    return used;
  }

  void read_phases() {
    const std::string dataset = "timings/phase_seconds";
    const auto shape = shape_of(dataset, 3);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const auto used = ranks_used(i, dataset, shape[1]);
      if (rows_[i].ok) rows_[i].phase_seconds = file_.read_block<double>(dataset, {{i, 0, 0}, {1, used, phase_count}});
    }
  }

  void read_drift() {
    const auto checked = file_.read<std::int64_t>("drift/row");
    const auto differences = file_.read<float>("drift/largest_logit_difference");
    const auto tokens = file_.read<std::int32_t>("drift/first_differing_token");
    const auto exists = [&](std::int64_t row) { return row >= 0 && row < std::ssize(rows_); };
    if (differences.size() != checked.size() || tokens.size() != checked.size() ||
        !std::ranges::all_of(checked, exists)) {
      fail("{}: drift does not fit the {} rows of the file", path_, rows_.size());
    }
    for (std::size_t i = 0; i < checked.size(); ++i) {
      rows_[static_cast<std::size_t>(checked[i])].drift = {.largest_logit_difference = differences[i],
                                                           .first_differing_token = tokens[i]};
    }
  }

  /// Files of earlier versions do not have them all: zeros.
  void read_by_rank(const std::string& dataset, std::vector<double> ResultRow::*field) {
    if (!file_.has(dataset)) {
      for (auto& row : rows_) {
        if (row.ok) (row.*field).resize(static_cast<std::size_t>(row.ranks_used));
      }
      return;
    }
    const auto shape = shape_of(dataset, 2);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const auto used = ranks_used(i, dataset, shape[1]);
      if (rows_[i].ok) rows_[i].*field = file_.read_block<double>(dataset, {{i, 0}, {1, used}});
    }
  }

  /// Axes stay as long as they are in the file; a row with nothing but -1 has no selection.
  void read_selection() {
    const auto shape = shape_of("selection/positions", 5);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      auto positions = file_.read_block<std::int32_t>("selection/positions",
                                                      {{i, 0, 0, 0, 0}, {1, shape[1], shape[2], shape[3], shape[4]}});
      if (std::ranges::all_of(positions, [](auto position) { return position == -1; })) continue;
      rows_[i].selection = {.layers = static_cast<int>(shape[1]),
                            .blocks = static_cast<int>(shape[2]),
                            .kv_heads = static_cast<int>(shape[3]),
                            .p = static_cast<int>(shape[4]),
                            .positions = std::move(positions)};
    }
  }

  std::string path_;
  h5::File file_;
  std::vector<ResultRow> rows_;
};

}  // namespace

Results read_results(const std::filesystem::path& path, Arrays arrays) { return Reader(path).read(arrays); }

}  // namespace apb
