#include "cpu/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "cpu/key_value_layout.hpp"

namespace apb::cpu {

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

void check_shape(std::string_view operation, const HeadShape& shape) {
  const bool divides = shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0;
  require(divides && shape.head_dim > 0, operation,
          fmt::format("{} heads, {} KV heads of {} do not fit together", shape.heads, shape.kv_heads, shape.head_dim));
}

void check_slot(std::string_view operation, const Slot& slot, std::int64_t first, std::int64_t count) {
  if (first == 0 && count == 0) return;
  require(slot.data != nullptr, operation, "a slot has no memory");
  require(slot.capacity % key_tile == 0, operation,
          fmt::format("a slot's capacity of {} is not a multiple of {}", slot.capacity, key_tile));
  require(first >= 0 && count >= 0 && first + count <= slot.capacity, operation,
          fmt::format("tokens {}..{} are outside a slot of {}", first, first + count, slot.capacity));
}

}  // namespace apb::cpu
