// What a device's operations refuse, the same on every device: std::invalid_argument names the operation, the argument
// and what is wrong with it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "device/device.hpp"

namespace apb {

struct ArgumentName {
  std::string_view operation;
  std::string_view argument;
};

std::string_view name_of(DataType type);

void require(bool condition, std::string_view operation, const std::string& what_is_wrong);

/// The view is [rows, columns], of one of `types`, in `space`. A view without elements where none are wanted may have
/// any type and space.
void check(const ArgumentName& name, const ConstView& view, std::int64_t rows, std::int64_t columns,
           std::initializer_list<DataType> types, Space space = Space::device);

/// The arguments of Device's operations as its comments state them, one function an operation.
class OperationChecks {
 public:
  OperationChecks(DataType compute_type, int tile) : type_(compute_type), tile_(tile) {}

  void pack(std::span<const ConstView> stacked, std::span<const ConstView> biases) const;
  void fill(const Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) const;
  void upload(ConstView source, View destination) const;
  void download(ConstView source, View destination) const;

  void embed(ConstView tokens, const Weight& table, View out) const;
  void rms_norm(ConstView x, ConstView weight, View out) const;
  void linear(ConstView x, const Weight& weight, View out, bool accumulate) const;
  void rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                        std::int64_t first_position, View query_out, Slot slot, int first_token) const;
  void attention(const AttentionArguments& arguments) const;
  void merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) const;
  void add_partial(const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp) const;
  void copy(ConstView source, View destination) const;
  void silu(View x) const;
  void silu_multiply(ConstView gate_up, View out) const;

  void mean_query(const HeadShape& shape, ConstView query, View mean) const;
  void score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) const;
  void score(std::string_view operation, View scores) const;
  void select(ConstView scores, int pool_window, int excluded, View positions) const;
  void gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) const;
  void argmax(ConstView x, View out) const;

 private:
  /// Tokens [first, first + count) fit into the slot, whose capacity is whole tiles. No tokens fit into any slot.
  void slot(std::string_view operation, const Slot& slot, std::int64_t first, std::int64_t count) const;

  DataType type_;
  int tile_;
};

}  // namespace apb
