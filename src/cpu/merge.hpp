// The merge of partial attentions.
#pragma once

#include <span>

#include "device/device.hpp"

namespace apb::cpu {

/// Device::merge; shapes and types have been checked. 0 where no partial attention has seen a key.
void merge(int threads, const HeadShape& shape, std::span<const PartialAttention> partials, View out);

/// Device::add_partial; shapes and types have been checked.
void add_partial(int threads, const HeadShape& shape, const PartialAttention& partial, View output, View log_sum_exp);

}  // namespace apb::cpu
