// The phases that a document's prefill time is divided into, in the order of the results file.
#pragma once

#include <array>
#include <string_view>

namespace apb {

enum class Phase { embed, projection, compression, communication, attention, feed_forward, query, head, other };

inline constexpr int phase_count = 9;
inline constexpr std::array<std::string_view, phase_count> phase_names = {
    "embed", "projection", "compression", "communication", "attention", "feed_forward", "query", "head", "other"};

using PhaseSeconds = std::array<double, phase_count>;

}  // namespace apb
