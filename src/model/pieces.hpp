// Parts of text on their way to byte-pair encoding.
#pragma once

#include <functional>
#include <string_view>

namespace apb {

/// Gets pieces of text in order; a piece is valid during the call.
using PieceVisitor = std::function<void(std::string_view)>;

}  // namespace apb
