// Shapes of well-known models, for measuring without their weights.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/config.hpp"

namespace apb {

/// The names that shape_named knows.
std::vector<std::string> shape_names();

/// The configuration of a published model by its name, without stop tokens. Fails where there is no such name.
ModelConfig shape_named(std::string_view name);

}  // namespace apb
