// Results files, held against what the plain HDF5 library reads from them.
#include "output/results.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <hdf5_hl.h>

#include <limits>

#include "output/hdf5.hpp"
#include "rows.hpp"

namespace apb {
namespace {

using namespace testing_output;

/// A file read with nothing but the HDF5 library.
class PlainFile {
 public:
  explicit PlainFile(const std::filesystem::path& path) : id_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {
    EXPECT_GE(id_, 0);
  }
  PlainFile(const PlainFile&) = delete;
  PlainFile& operator=(const PlainFile&) = delete;
  ~PlainFile() { H5Fclose(id_); }

  std::vector<hsize_t> shape(const char* name) const {
    int axes = 0;
    H5LTget_dataset_ndims(id_, name, &axes);
    std::vector<hsize_t> result(static_cast<std::size_t>(axes));
    H5LTget_dataset_info(id_, name, result.data(), nullptr, nullptr);
    return result;
  }

  template <typename T>
  std::vector<T> read(const char* name, hid_t type) const {
    std::size_t size = 1;
    for (const auto length : shape(name)) size *= length;
    std::vector<T> values(size);
    EXPECT_GE(H5LTread_dataset(id_, name, type, values.data()), 0);
    return values;
  }

  std::vector<std::string> texts(const char* name) const {
    const hid_t data = H5Dopen2(id_, name, H5P_DEFAULT);
    const hid_t type = H5Dget_type(data);
    EXPECT_GT(H5Tis_variable_str(type), 0);
    EXPECT_EQ(H5Tget_cset(type), H5T_CSET_UTF8);
    std::vector<char*> pointers(shape(name)[0]);
    EXPECT_GE(H5Dread(data, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, static_cast<void*>(pointers.data())), 0);
    std::vector<std::string> result(pointers.begin(), pointers.end());
    const hid_t space = H5Dget_space(data);
    H5Dvlen_reclaim(type, space, H5P_DEFAULT, static_cast<void*>(pointers.data()));
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(data);
    return result;
  }

  /// Type class and size in bytes.
  std::pair<H5T_class_t, std::size_t> type(const char* name) const {
    std::pair<H5T_class_t, std::size_t> result;
    EXPECT_GE(H5LTget_dataset_info(id_, name, std::vector<hsize_t>(8).data(), &result.first, &result.second), 0);
    return result;
  }

  bool has(const char* name) const { return H5Lexists(id_, name, H5P_DEFAULT) > 0; }

  std::string scale_label(const char* name, unsigned axis) const {
    const hid_t data = H5Dopen2(id_, name, H5P_DEFAULT);
    EXPECT_EQ(H5DSget_num_scales(data, axis), 1);
    std::string label(64, '\0');
    label.resize(static_cast<std::size_t>(H5DSget_label(data, axis, label.data(), label.size())));
    H5Dclose(data);
    return label;
  }

 private:
  hid_t id_;
};

std::vector<ResultRow> mixed_rows() {
  return {ok_row("a", 1), failed_row("b"), ok_row("c#2", 2), ok_row("東", 3), failed_row("e", "no room: käse"),
          ok_row("f", 5)};
}

TEST(Results, RoundTripKeepsEveryField) {
  const TemporaryFolder folder;
  const auto rows = mixed_rows();
  write_results(folder / "r.h5", make_info(), rows, everything);
  const auto results = read_results(folder / "r.h5");
  EXPECT_EQ(results.saved, everything);
  ASSERT_EQ(results.rows.size(), rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) expect_same(results.rows[i], rows[i]);

  const auto info = make_info();
  EXPECT_EQ(results.info.version, info.version);
  EXPECT_EQ(results.info.command_line, info.command_line);
  EXPECT_EQ(results.info.options, info.options);
  EXPECT_EQ(results.info.model, info.model);
  EXPECT_EQ(results.info.ranks, info.ranks);
  EXPECT_EQ(results.info.hosts, info.hosts);
  EXPECT_EQ(results.info.devices, info.devices);
  EXPECT_EQ(results.info.dtype, info.dtype);
  EXPECT_EQ(results.info.start_time, info.start_time);
}

TEST(Results, FlatTokensTextsAndLogitsAsThePlainLibraryReadsThem) {
  const TemporaryFolder folder;
  const auto rows = mixed_rows();
  write_results(folder / "r.h5", make_info(), rows, everything);
  const PlainFile file(folder / "r.h5");
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets = {0};
  std::vector<float> logits;
  std::vector<std::string> texts;
  std::vector<std::string> status;
  for (const auto& row : rows) {
    tokens.insert(tokens.end(), row.token_ids.begin(), row.token_ids.end());
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    texts.push_back(row.text);
    status.emplace_back(row.ok ? "ok" : "failed");
  }
  EXPECT_EQ(file.read<std::int32_t>("outputs/token_ids", H5T_NATIVE_INT32), tokens);
  EXPECT_EQ(file.type("outputs/token_ids"), std::pair(H5T_INTEGER, std::size_t{4}));
  EXPECT_EQ(file.read<std::int64_t>("outputs/token_offsets", H5T_NATIVE_INT64), offsets);
  EXPECT_EQ(file.type("outputs/token_offsets"), std::pair(H5T_INTEGER, std::size_t{8}));
  EXPECT_EQ(file.read<float>("outputs/logits", H5T_NATIVE_FLOAT), logits);
  EXPECT_EQ(file.type("outputs/logits"), std::pair(H5T_FLOAT, std::size_t{4}));
  EXPECT_EQ(file.shape("outputs/logits"), (std::vector<hsize_t>{tokens.size(), vocabulary}));
  EXPECT_EQ(file.texts("outputs/text"), texts);
  EXPECT_EQ(file.texts("documents/status"), status);
}

TEST(Results, PhaseTimesArePaddedWithZerosAndHaveScales) {
  const TemporaryFolder folder;
  const auto rows = mixed_rows();
  write_results(folder / "r.h5", make_info(), rows, {});
  const PlainFile file(folder / "r.h5");
  const auto shape = file.shape("timings/phase_seconds");
  ASSERT_EQ(shape.size(), 3U);
  std::size_t ranks = 0;
  for (const auto& row : rows) ranks = std::max(ranks, static_cast<std::size_t>(row.ranks_used));
  EXPECT_EQ(shape, (std::vector<hsize_t>{rows.size(), ranks, phases}));
  const auto times = file.read<double>("timings/phase_seconds", H5T_NATIVE_DOUBLE);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    auto expected = rows[i].phase_seconds;
    expected.resize(ranks * phases, 0.0);
    const auto first = times.begin() + static_cast<std::ptrdiff_t>(i * ranks * phases);
    EXPECT_EQ(std::vector<double>(first, first + static_cast<std::ptrdiff_t>(ranks * phases)), expected) << i;
  }
  const auto messages = file.read<double>("timings/communication_whole_seconds", H5T_NATIVE_DOUBLE);
  ASSERT_EQ(messages.size(), rows.size() * ranks);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    auto expected = rows[i].message_seconds;
    expected.resize(ranks, 0.0);
    const auto first = messages.begin() + static_cast<std::ptrdiff_t>(i * ranks);
    EXPECT_EQ(std::vector<double>(first, first + static_cast<std::ptrdiff_t>(ranks)), expected) << i;
  }
  EXPECT_EQ(file.scale_label("timings/communication_whole_seconds", 1), "rank");
  EXPECT_EQ(file.scale_label("timings/phase_seconds", 1), "rank");
  EXPECT_EQ(file.scale_label("timings/phase_seconds", 2), "phase");
  EXPECT_EQ(file.texts("timings/phases"), (std::vector<std::string>{phase_names.begin(), phase_names.end()}));
}

TEST(Results, DriftOfTheRowsThatWereChecked) {
  const TemporaryFolder folder;
  auto rows = mixed_rows();
  for (auto& row : rows) row.drift.reset();
  write_results(folder / "none.h5", make_info(), rows, {});
  EXPECT_FALSE(PlainFile(folder / "none.h5").has("drift"));

  rows[2].drift = {.largest_logit_difference = 0.25F, .first_differing_token = -1};
  rows[5].drift = {.largest_logit_difference = 3.5F, .first_differing_token = 0};
  write_results(folder / "r.h5", make_info(), rows, {});
  const PlainFile file(folder / "r.h5");
  EXPECT_EQ(file.read<std::int64_t>("drift/row", H5T_NATIVE_INT64), (std::vector<std::int64_t>{2, 5}));
  EXPECT_EQ(file.read<float>("drift/largest_logit_difference", H5T_NATIVE_FLOAT), (std::vector<float>{0.25F, 3.5F}));
  EXPECT_EQ(file.read<int>("drift/first_differing_token", H5T_NATIVE_INT), (std::vector<int>{-1, 0}));
  EXPECT_EQ(file.read<int>("drift/answers_equal", H5T_NATIVE_INT), (std::vector<int>{1, 0}));

  rows[5].drift->largest_logit_difference = std::numeric_limits<float>::quiet_NaN();
  expect_error([&] { write_results(folder / "nan.h5", make_info(), rows, {}); }, {"f", "finite"});
  rows[5].drift.reset();
  rows[1].drift = {.largest_logit_difference = 0.25F};
  expect_error([&] { write_results(folder / "failed.h5", make_info(), rows, {}); }, {"b", "ok"});
}

TEST(Results, PairsAndBytesArePaddedWithZerosAndHaveScales) {
  const TemporaryFolder folder;
  const auto rows = mixed_rows();
  write_results(folder / "r.h5", make_info(), rows, {});
  const PlainFile file(folder / "r.h5");
  const std::size_t ranks = file.shape("timings/ranks").at(0);
  const std::vector<std::pair<const char*, std::vector<double> ResultRow::*>> counts = {
      {"timings/pairs", &ResultRow::pairs}, {"timings/bytes_sent", &ResultRow::bytes_sent}};
  for (const auto& [name, field] : counts) {
    std::vector<double> expected;
    for (const auto& row : rows) {
      auto padded = row.*field;
      padded.resize(ranks, 0.0);
      expected.insert(expected.end(), padded.begin(), padded.end());
    }
    EXPECT_EQ(file.shape(name), (std::vector<hsize_t>{rows.size(), ranks}));
    EXPECT_EQ(file.read<double>(name, H5T_NATIVE_DOUBLE), expected);
    EXPECT_EQ(file.scale_label(name, 1), "rank");
  }
  std::vector<double> full;
  for (const auto& row : rows) full.push_back(row.full_pairs);
  EXPECT_EQ(file.read<double>("timings/full_pairs", H5T_NATIVE_DOUBLE), full);
}

TEST(Results, SelectionIsPaddedWithMinusOne) {
  const TemporaryFolder folder;
  auto rows = std::vector<ResultRow>{ok_row("wide", 1), failed_row("none"), ok_row("long", 2)};
  rows[0].selection = {.layers = 1, .blocks = 3, .kv_heads = 1, .p = 2, .positions = {0, 1, 2, 3, 4, 5}};
  rows[2].selection = {.layers = 1, .blocks = 2, .kv_heads = 1, .p = 3, .positions = {6, 7, 8, 9, 10, 11}};
  write_results(folder / "r.h5", make_info(), rows, {.vocabulary = 0, .selection = true});
  {
    const PlainFile file(folder / "r.h5");
    EXPECT_EQ(file.shape("selection/positions"), (std::vector<hsize_t>{3, 1, 3, 1, 3}));
    const std::vector<std::int32_t> expected = {0,  1,  -1, 2,  3, -1, 4, 5, -1, -1, -1, -1, -1, -1,
                                                -1, -1, -1, -1, 6, 7,  8, 9, 10, 11, -1, -1, -1};
    EXPECT_EQ(file.read<std::int32_t>("selection/positions", H5T_NATIVE_INT32), expected);
  }

  const auto read = read_results(folder / "r.h5");
  EXPECT_TRUE(read.rows[1].selection.positions.empty());
  EXPECT_EQ(read.rows[2].selection.positions, (std::vector<std::int32_t>{6, 7, 8, 9, 10, 11, -1, -1, -1}));
}

TEST(Results, LargeArraysAreLeftOutUnlessSavedAndSkippedOnDemand) {
  const TemporaryFolder folder;
  write_results(folder / "without.h5", make_info(), {without_arrays(ok_row("a", 1))}, {});
  const PlainFile file(folder / "without.h5");
  EXPECT_FALSE(file.has("outputs/logits"));
  EXPECT_FALSE(file.has("selection"));

  const auto row = ok_row("a", 1);
  write_results(folder / "with.h5", make_info(), {row}, everything);
  const auto skipped = read_results(folder / "with.h5", Arrays::skip);
  EXPECT_EQ(skipped.saved, everything);
  expect_same(skipped.rows.at(0), without_arrays(row));
}

TEST(Results, NoRowsAndOnlyFailedRows) {
  const TemporaryFolder folder;
  for (const auto& saved : {SavedArrays{}, everything}) {
    write_results(folder / "none.h5", make_info(), {}, saved);
    EXPECT_EQ(read_results(folder / "none.h5").rows.size(), 0U);
    EXPECT_EQ(read_results(folder / "none.h5").saved, saved);
    write_results(folder / "failed.h5", make_info(), {failed_row("x"), failed_row("y")}, saved);
    const auto results = read_results(folder / "failed.h5");
    ASSERT_EQ(results.rows.size(), 2U);
    expect_same(results.rows[1], failed_row("y"));
  }
}

TEST(Results, TextThatIsNotUtf8IsMadeSo) {
  EXPECT_EQ(h5::storable_text("käse 🙂"), "käse 🙂");
  EXPECT_EQ(h5::storable_text("cut \xE6\x9D"), "cut \uFFFD");
  EXPECT_EQ(h5::storable_text(std::string_view("a\0b", 3)), "a\uFFFDb");
  EXPECT_EQ(h5::storable_text(""), "");
}

TEST(Results, LogitsOfARealisticWidthSpanManyChunks) {
  const TemporaryFolder folder;
  constexpr std::int64_t wide = 100'003;
  std::vector<ResultRow> rows = {without_arrays(ok_row("a", 1)), without_arrays(ok_row("b", 2))};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].logits.resize(rows[i].token_ids.size() * wide);
    std::iota(rows[i].logits.begin(), rows[i].logits.end(), static_cast<float>(i));
  }
  write_results(folder / "r.h5", make_info(), rows, {.vocabulary = wide, .selection = false});
  const auto results = read_results(folder / "r.h5");
  EXPECT_TRUE(results.rows[0].logits == rows[0].logits);
  EXPECT_TRUE(results.rows[1].logits == rows[1].logits);
}

TEST(Results, RowsThatBreakTheRulesAreRefused) {
  const TemporaryFolder folder;
  const auto refuse = [&](const ResultRow& row, const SavedArrays& saved) {
    const auto message = error_of([&] { write_results(folder / "r.h5", make_info(), {row}, saved); });
    EXPECT_NE(message.find("document bad"), std::string::npos) << message;
    EXPECT_FALSE(std::filesystem::exists(folder / "r.h5"));
  };
  refuse(failed_row("bad", ""), {});
  auto row = ok_row("bad", 1);
  row.message = "but it is ok";
  refuse(row, {});
  row = ok_row("bad", 1);
  row.phase_seconds.pop_back();
  refuse(row, {});
  row = ok_row("bad", 1);
  row.bytes_sent.pop_back();
  refuse(row, {});
  row = ok_row("bad", 1);
  row.message_seconds.pop_back();
  refuse(row, {});
  row = ok_row("bad", 1);
  row.logits.pop_back();
  refuse(row, everything);
  row = ok_row("bad", 1);
  row.selection.positions.pop_back();
  refuse(row, everything);
}

TEST(Results, FilesThatCannotBeReadAreNamed) {
  const TemporaryFolder folder;
  const auto message_for = [&](const std::string& name) { return error_of([&] { read_results(folder / name); }); };
  EXPECT_NE(message_for("missing.h5").find("missing.h5: there is no such file"), std::string::npos);

  std::ofstream(folder / "text.h5") << "not HDF5";
  EXPECT_NE(message_for("text.h5").find("text.h5: cannot read it as an HDF5 file"), std::string::npos);

  write_results(folder / "cut.h5", make_info(), mixed_rows(), {});
  std::filesystem::resize_file(folder / "cut.h5", std::filesystem::file_size(folder / "cut.h5") / 2);
  EXPECT_NE(message_for("cut.h5").find("cut.h5: cannot"), std::string::npos);

  const hid_t other = H5Fcreate((folder / "other.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(other);
  EXPECT_NE(message_for("other.h5").find("other.h5: this is not a results file"), std::string::npos);
  for (const auto* name : {"missing.h5", "text.h5", "cut.h5", "other.h5"}) {
    EXPECT_EQ(message_for(name).find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace apb
