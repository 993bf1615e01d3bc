// The partial outputs of query rows that ranks exchange.
#pragma once

#include "device/device.hpp"

namespace apb {

/// Elements (f32) of one rank's part: the outputs [rows, heads * head_dim], then the log-sum-exps [rows, heads], up to
/// a multiple of 16 bytes, so that every part's outputs begin at one.
inline std::int64_t query_part_elements(const HeadShape& shape, std::int64_t rows) {
  return (rows * (shape.query_columns() + shape.heads) + 3) / 4 * 4;
}

}  // namespace apb
