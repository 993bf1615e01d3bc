#include "device/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace apb {

std::string_view name_of(DataType type) {
  switch (type) {
    case DataType::f32:
      return "f32";
    case DataType::bf16:
      return "bf16";
    case DataType::f16:
      return "f16";
    case DataType::i32:
      return "i32";
  }
  return "?";
}

void require(bool condition, std::string_view operation, const std::string& what_is_wrong) {
  if (!condition) throw std::invalid_argument(fmt::format("{}: {}", operation, what_is_wrong));
}

void check(const ArgumentName& name, const ConstView& view, std::int64_t rows, std::int64_t columns,
           std::initializer_list<DataType> types, Space space) {
  const auto& [operation, argument] = name;
  if (view.rows == rows && (rows == 0 || (columns == 0 && view.columns == 0))) return;
  if (view.rows != rows || view.columns != columns) {
    throw std::invalid_argument(fmt::format("{}: {} is [{}, {}] where [{}, {}] is wanted", operation, argument,
                                            view.rows, view.columns, rows, columns));
  }
  if (std::find(types.begin(), types.end(), view.type) == types.end()) {
    throw std::invalid_argument(fmt::format("{}: {} cannot be {}", operation, argument, name_of(view.type)));
  }
  if (view.space != space) {
    throw std::invalid_argument(
        fmt::format("{}: {} must be in {} memory", operation, argument, space == Space::host ? "host" : "device"));
  }
  if (view.data == nullptr || (view.rows > 1 && view.stride < view.columns)) {
    throw std::invalid_argument(
        fmt::format("{}: {} has no memory or rows that overlap (stride {})", operation, argument, view.stride));
  }
}

namespace {

/// Heads and KV heads are positive, and each KV head has equally many query heads.
void check_shape(std::string_view operation, const HeadShape& shape) {
  const bool divides = shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0;
  require(divides && shape.head_dim > 0, operation,
          fmt::format("{} heads, {} KV heads of {} do not fit together", shape.heads, shape.kv_heads, shape.head_dim));
}

/// `stacked` and `biases` as pack takes them; returns the rows of all together.
std::int64_t check_matrices(const char* name, std::span<const ConstView> stacked, std::span<const ConstView> biases) {
  require(!stacked.empty(), name, "there is no matrix");
  std::int64_t rows = 0;
  for (const auto& matrix : stacked) {
    check({name, "matrix"}, matrix, matrix.rows, stacked.front().columns,
          {DataType::f32, DataType::bf16, DataType::f16}, Space::host);
    rows += matrix.rows;
  }
  require(biases.empty() || biases.size() == stacked.size(), name,
          fmt::format("{} biases for {} matrices", biases.size(), stacked.size()));
  for (std::size_t i = 0; i < biases.size(); ++i) {
    check({name, "bias"}, biases[i], 1, stacked[i].rows, {DataType::f32, DataType::bf16, DataType::f16}, Space::host);
  }
  return rows;
}

}  // namespace

void OperationChecks::slot(std::string_view operation, const Slot& slot, std::int64_t first, std::int64_t count) const {
  if (first == 0 && count == 0) return;
  require(slot.data != nullptr, operation, "a slot has no memory");
  require(slot.capacity % tile_ == 0, operation,
          fmt::format("a slot's capacity of {} is not a multiple of {}", slot.capacity, tile_));
  require(first >= 0 && count >= 0 && first + count <= slot.capacity, operation,
          fmt::format("tokens {}..{} are outside a slot of {}", first, first + count, slot.capacity));
}

void OperationChecks::pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) const {
  check_matrices("pack", stacked, biases);
}

void OperationChecks::fill(const Weight& weight, std::span<const ConstView> stacked,
                           std::span<const ConstView> biases) const {
  const std::int64_t rows = check_matrices("fill", stacked, biases);
  require(rows == weight.outputs() && stacked.front().columns == weight.inputs(), "fill",
          fmt::format("matrices of [{}, {}] for a weight of [{}, {}]", rows, stacked.front().columns, weight.outputs(),
                      weight.inputs()));
}

void OperationChecks::upload(ConstView source, View destination) const {
  check({"upload", "source"}, source, destination.rows, destination.columns, {source.type}, Space::host);
  check({"upload", "destination"}, destination, destination.rows, destination.columns, {destination.type});
  const bool float_to_float =
      source.type != DataType::i32 && (destination.type == DataType::f32 || destination.type == DataType::bf16);
  require(source.type == destination.type || float_to_float, "upload",
          fmt::format("cannot turn {} into {}", name_of(source.type), name_of(destination.type)));
}

void OperationChecks::download(ConstView source, View destination) const {
  check({"download", "source"}, source, destination.rows, destination.columns, {destination.type});
  check({"download", "destination"}, destination, source.rows, source.columns, {source.type}, Space::host);
}

void OperationChecks::embed(ConstView tokens, const Weight& table, View out) const {
  check({"embed", "tokens"}, tokens, tokens.rows, 1, {DataType::i32});
  check({"embed", "out"}, out, tokens.rows, table.inputs(), {DataType::f32});
}

void OperationChecks::rms_norm(ConstView x, ConstView weight, View out) const {
  check({"rms_norm", "x"}, x, x.rows, x.columns, {DataType::f32});
  check({"rms_norm", "weight"}, weight, 1, x.columns, {DataType::f32});
  check({"rms_norm", "out"}, out, x.rows, x.columns, {type_, DataType::f32});
}

void OperationChecks::linear(ConstView x, const Weight& weight, View out, bool accumulate) const {
  check({"linear", "x"}, x, x.rows, weight.inputs(), {type_});
  check({"linear", "out"}, out, x.rows, weight.outputs(), {accumulate ? DataType::f32 : type_, DataType::f32});
}

void OperationChecks::rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                                       std::int64_t first_position, View query_out, Slot to, int first_token) const {
  const char* name = "rotate_and_store";
  check_shape(name, shape);
  require(shape.head_dim % 2 == 0, name, fmt::format("head_dim {} is odd", shape.head_dim));
  check({name, "qkv"}, qkv, qkv.rows, shape.qkv_columns(), {type_});
  check({name, "rotary"}, rotary, rotary.rows, shape.head_dim, {DataType::f32});
  require(norms.query.empty() == norms.key.empty(), name, "only one of Q and K has a norm");
  if (!norms.query.empty()) {
    check({name, "norm of Q"}, norms.query, 1, shape.head_dim, {DataType::f32});
    check({name, "norm of K"}, norms.key, 1, shape.head_dim, {DataType::f32});
  }
  if (!query_out.empty()) check({name, "query_out"}, query_out, qkv.rows, shape.query_columns(), {type_});
  if (qkv.rows == 0) return;
  require(first_position >= 0 && first_position + qkv.rows <= rotary.rows, name,
          fmt::format("positions {}..{} are outside the {} of rotary", first_position, first_position + qkv.rows,
                      rotary.rows));
  slot(name, to, first_token, qkv.rows);
}

void OperationChecks::attention(const AttentionArguments& arguments) const {
  const auto& [shape, query, visible, causal, causal_before, output, log_sum_exp] = arguments;
  check_shape("attention", shape);
  check({"attention", "query"}, query, query.rows, shape.query_columns(), {type_});
  check({"attention", "output"}, output, query.rows, shape.query_columns(), {type_, DataType::f32});
  if (!log_sum_exp.empty()) {
    check({"attention", "log_sum_exp"}, log_sum_exp, query.rows, shape.heads, {DataType::f32});
  }
  for (const auto& range : visible) slot("attention", range.slot, 0, range.count);
  slot("attention", causal.slot, 0, causal.count);
  require(causal_before >= 0, "attention", fmt::format("causal_before is {}", causal_before));
}

void OperationChecks::merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) const {
  check_shape("merge", shape);
  check({"merge", "out"}, out, out.rows, shape.query_columns(), {type_, DataType::f32});
  for (const auto& partial : partials) {
    check({"merge", "output"}, partial.output, out.rows, shape.query_columns(), {DataType::f32});
    check({"merge", "log_sum_exp"}, partial.log_sum_exp, out.rows, shape.heads, {DataType::f32});
  }
}

void OperationChecks::add_partial(const HeadShape& shape, const PartialAttention& partial, View output,
                                  View log_sum_exp) const {
  check_shape("add_partial", shape);
  check({"add_partial", "output"}, output, output.rows, shape.query_columns(), {DataType::f32});
  check({"add_partial", "log_sum_exp"}, log_sum_exp, output.rows, shape.heads, {DataType::f32});
  check({"add_partial", "partial output"}, partial.output, output.rows, shape.query_columns(), {DataType::f32});
  check({"add_partial", "partial log_sum_exp"}, partial.log_sum_exp, output.rows, shape.heads, {DataType::f32});
}

void OperationChecks::copy(ConstView source, View destination) const {
  check({"copy", "source"}, source, source.rows, source.columns, {source.type});
  check({"copy", "destination"}, destination, source.rows, source.columns, {source.type});
}

void OperationChecks::silu(View x) const { check({"silu", "x"}, x, x.rows, x.columns, {type_, DataType::f32}); }

void OperationChecks::silu_multiply(ConstView gate_up, View out) const {
  check({"silu_multiply", "gate_up"}, gate_up, out.rows, 2 * out.columns, {type_});
  check({"silu_multiply", "out"}, out, out.rows, out.columns, {type_});
}

void OperationChecks::mean_query(const HeadShape& shape, ConstView query, View mean) const {
  check_shape("mean_query", shape);
  check({"mean_query", "query"}, query, query.rows, shape.query_columns(), {type_});
  check({"mean_query", "mean"}, mean, shape.kv_heads, shape.head_dim, {DataType::f32});
}

void OperationChecks::score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) const {
  check_shape("score_similarity", shape);
  check({"score_similarity", "mean"}, mean, shape.kv_heads, shape.head_dim, {DataType::f32});
  slot("score_similarity", keys.slot, 0, keys.count);
  check({"score_similarity", "scores"}, scores, keys.count, shape.kv_heads, {DataType::f32});
}

void OperationChecks::score(std::string_view operation, View scores) const {
  check({operation, "scores"}, scores, scores.rows, scores.columns, {DataType::f32});
}

void OperationChecks::select(ConstView scores, int pool_window, int excluded, View positions) const {
  check({"select", "scores"}, scores, scores.rows, positions.rows, {DataType::f32});
  check({"select", "positions"}, positions, scores.columns, positions.columns, {DataType::i32});
  require(pool_window > 0 && pool_window % 2 == 1, "select",
          fmt::format("pool_window {} is not a positive odd number", pool_window));
  require(
      excluded >= 0 && positions.columns <= std::max<std::int64_t>(0, scores.rows - excluded), "select",
      fmt::format("cannot choose {} of {} tokens of which {} are excluded", positions.columns, scores.rows, excluded));
}

void OperationChecks::gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) const {
  check_shape("gather", shape);
  slot("gather", source.slot, 0, source.count);
  check({"gather", "positions"}, positions, shape.kv_heads, positions.columns, {DataType::i32});
  slot("gather", destination, 0, positions.columns);
}

void OperationChecks::argmax(ConstView x, View out) const {
  require(x.rows == 0 || x.columns > 0, "argmax", "x has no columns");
  check({"argmax", "x"}, x, x.rows, x.columns, {DataType::f32});
  check({"argmax", "out"}, out, x.rows, 1, {DataType::i32});
}

}  // namespace apb
