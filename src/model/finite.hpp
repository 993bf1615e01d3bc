// Finding NaN and infinity among weights.
#pragma once

#include <cstdint>
#include <optional>

#include "device/view.hpp"

namespace apb {

/// Index, row after row, of the first element that is NaN or infinite; `values` is dense and f32, bf16 or f16. Looked
/// for by `threads` threads.
std::optional<std::int64_t> first_not_finite(const ConstView& values, int threads = 1);

}  // namespace apb
