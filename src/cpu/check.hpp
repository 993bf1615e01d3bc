// Checks at the entry of the CPU device's operations: std::invalid_argument names the operation and what is wrong.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "device/device.hpp"

namespace apb::cpu {

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

/// Heads and KV heads are positive, and each KV head has equally many query heads.
void check_shape(std::string_view operation, const HeadShape& shape);

/// Tokens [first, first + count) fit into the slot, whose capacity is whole tiles. No tokens fit into any slot.
void check_slot(std::string_view operation, const Slot& slot, std::int64_t first, std::int64_t count);

}  // namespace apb::cpu
