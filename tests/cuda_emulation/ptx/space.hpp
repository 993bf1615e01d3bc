// The state spaces of memory.
#pragma once

#include <cstdint>

namespace apb::ptx {

enum class Space : std::uint8_t { generic, global, constant, shared, local, param };

}  // namespace apb::ptx
