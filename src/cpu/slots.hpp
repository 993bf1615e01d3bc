// Keys and values written to slots. Shapes and types are those of Device's operations of the same name and have been
// checked. The result does not depend on the number of threads.
#pragma once

#include "device/device.hpp"

namespace apb::cpu {

void rotate_and_store(int threads, const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                      std::int64_t first_position, View query_out, Slot slot, int first_token);

/// Device::gather of slots of `type`; throws std::invalid_argument for a position that the source does not have.
void gather(int threads, const HeadShape& shape, DataType type, SlotRange source, ConstView positions,
            Slot destination);

}  // namespace apb::cpu
