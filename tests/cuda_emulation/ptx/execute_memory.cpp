// Loads, stores and atomics.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "ptx/access.hpp"
#include "ptx/forms.hpp"
#include "ptx/half.hpp"
#include "ptx/handlers.hpp"
#include "ptx/judge.hpp"

namespace apb::ptx {
namespace {

std::size_t at(int lane) { return static_cast<std::size_t>(lane); }

/// Memory of type M into slots of type S.
template <typename S, typename M>
void move_in(const Warp& warp, const Operation& operation, const Access& access) {
  for (unsigned e = 0; e < operation.elements; ++e) {
    S* slot = warp.at<S>(operation.operand[e]);
    for_lanes(access.mask, [&](int lane) {
      M value;
      std::memcpy(&value, access.host[at(lane)] + e * sizeof(M), sizeof(M));
      slot[lane] = static_cast<S>(value);
    });
  }
}

template <typename S, typename M>
void move_out(const Warp& warp, const Operation& operation, const Access& access) {
  for (unsigned e = 0; e < operation.elements; ++e) {
    const S* slot = warp.at<S>(operation.operand[e]);
    for_lanes(access.mask, [&](int lane) {
      const auto value = static_cast<M>(slot[lane]);
      std::memcpy(access.host[at(lane)] + e * sizeof(M), &value, sizeof(M));
    });
  }
}

template <typename S>
bool same_values(const Warp& warp, const Operation& operation, int a, int b) {
  for (unsigned e = 0; e < operation.elements; ++e) {
    const S* slot = warp.at<S>(operation.operand[e]);
    if (slot[a] != slot[b]) return false;
  }
  return true;
}

bool same_values(const Warp& warp, const Operation& operation, int a, int b) {
  switch (operation.bytes) {
    case 4:
      return same_values<std::uint32_t>(warp, operation, a, b);
    case 8:
      return same_values<std::uint64_t>(warp, operation, a, b);
    default:
      return same_values<std::uint16_t>(warp, operation, a, b);
  }
}

/// Lanes that store the same value at the same place as another lane do not store; another value is a race.
void drop_equal_stores(Warp& warp, const Operation& operation, Access& access) {
  // Local memory of the lanes has the same addresses.
  const auto at_first = access.address[at(std::countr_zero(access.mask))];
  if (operation.space == Space::local || (operation.space == Space::generic && (at_first & local_window) != 0)) return;
  bool ascending = true;
  std::uint64_t last = 0;
  bool first = true;
  for_lanes(access.mask, [&](int lane) {
    ascending = ascending && (first || access.address[at(lane)] > last);
    last = access.address[at(lane)];
    first = false;
  });
  if (ascending) return;
  std::uint32_t kept = 0;
  for_lanes(access.mask, [&](int lane) {
    bool same = false;
    for_lanes(kept, [&](int other) {
      if (access.address[at(other)] != access.address[at(lane)]) return;
      same = true;
      if (same_values(warp, operation, lane, other)) return;
      violate(warp, Fault::race, lane,
              fmt::format("stores another value than {} at the same place in the same instruction",
                          name_thread(*warp.block->launch, warp.block->number,
                                      warp.index * 32U + static_cast<unsigned>(other))));
    });
    if (!same) kept |= 1U << lane;
  });
  access.mask = kept;
}

void order_strong(Warp& warp, const Operation& operation, const Access& access, bool acquire, bool release) {
  if (!warp.block->launch->program->fences || operation.space == Space::shared) return;
  const bool publishes = release && (warp.block->fenced || (operation.flags & releases) != 0);
  for_lanes(access.mask, [&](int lane) { order_by_atomic(warp, access.address[at(lane)], acquire, publishes); });
}

template <typename T>
T updated(T old, T value, T swap, Reduction reduction) {
  using U = std::make_unsigned_t<T>;
  switch (reduction) {
    case Reduction::add:
      return static_cast<T>(static_cast<U>(old) + static_cast<U>(value));
    case Reduction::min:
      return std::min(old, value);
    case Reduction::max:
      return std::max(old, value);
    case Reduction::bit_and:
      return static_cast<T>(old & value);
    case Reduction::bit_or:
      return static_cast<T>(old | value);
    case Reduction::bit_xor:
      return static_cast<T>(old ^ value);
    case Reduction::inc:
      return old >= value ? T{0} : static_cast<T>(old + 1);
    case Reduction::dec:
      return old == 0 || old > value ? value : static_cast<T>(old - 1);
    case Reduction::exch:
      return value;
    case Reduction::cas:
      return old == value ? swap : old;
  }
  return old;
}

template <typename F, typename T>
T float_sum(T a, T b) {
  return std::bit_cast<T>(std::bit_cast<F>(a) + std::bit_cast<F>(b));
}

template <typename H>
std::uint16_t half_sum(std::uint16_t a, std::uint16_t b) {
  return H::narrow(to_odd(sum_to_odd(H::widen(a), H::widen(b))));
}

template <typename H>
std::uint32_t pair_sum(std::uint32_t a, std::uint32_t b) {
  using S = std::uint16_t;
  return half_sum<H>(static_cast<S>(a), static_cast<S>(b)) |
         (std::uint32_t{half_sum<H>(static_cast<S>(a >> 16), static_cast<S>(b >> 16))} << 16);
}

std::uint16_t add_floats(const Operation& operation, std::uint16_t a, std::uint16_t b) {
  return operation.elements == 2 ? half_sum<Bfloat>(a, b) : half_sum<Half>(a, b);
}
std::uint32_t add_floats(const Operation& operation, std::uint32_t a, std::uint32_t b) {
  if ((operation.flags & packed_halves) == 0) return float_sum<float>(a, b);
  return operation.elements == 2 ? pair_sum<Bfloat>(a, b) : pair_sum<Half>(a, b);
}
std::uint64_t add_floats(const Operation& operation, std::uint64_t a, std::uint64_t b) {
  static_cast<void>(operation);
  return float_sum<double>(a, b);
}

template <typename T>
void update_lanes(const Warp& warp, const Operation& operation, const Access& access) {
  using S = std::make_signed_t<T>;
  T* result = warp.at<T>(operation.operand[0]);
  const T* value = warp.at<T>(operation.operand[2]);
  const T* swap = warp.at<T>(operation.operand[operation.count - 1U]);
  const auto reduction = static_cast<Reduction>(operation.reduction);
  for_lanes(access.mask, [&](int lane) {
    T old;
    std::memcpy(&old, access.host[at(lane)], sizeof(T));
    T next;
    if ((operation.flags & float_access) != 0) {
      next = add_floats(operation, old, value[lane]);
    } else if ((operation.flags & signed_access) != 0) {
      next = static_cast<T>(
          updated(static_cast<S>(old), static_cast<S>(value[lane]), static_cast<S>(swap[lane]), reduction));
    } else {
      next = updated(old, value[lane], swap[lane], reduction);
    }
    std::memcpy(access.host[at(lane)], &next, sizeof(T));
    result[lane] = old;
  });
}

}  // namespace

void load(Warp& warp, const Operation& operation) {
  Access access;
  access.kind = AccessKind::read;
  access.strong = (operation.flags & strong_access) != 0;
  access.bytes = unsigned{operation.bytes} * operation.elements;
  take_addresses(warp, operation.operand[operation.elements], (operation.flags & wide_address) != 0,
                 operation.immediate, access);
  if (access.strong) order_strong(warp, operation, access, true, false);
  locate(warp, operation.space, access);
  const bool is_signed = (operation.flags & signed_access) != 0;
  switch (operation.bytes) {
    case 1:
      return is_signed ? move_in<std::int16_t, std::int8_t>(warp, operation, access)
                       : move_in<std::uint16_t, std::uint8_t>(warp, operation, access);
    case 2:
      return move_in<std::uint16_t, std::uint16_t>(warp, operation, access);
    case 4:
      return move_in<std::uint32_t, std::uint32_t>(warp, operation, access);
    default:
      return move_in<std::uint64_t, std::uint64_t>(warp, operation, access);
  }
}

void store(Warp& warp, const Operation& operation) {
  Access access;
  access.strong = (operation.flags & strong_access) != 0;
  access.kind = access.strong ? AccessKind::write_strong : AccessKind::write;
  access.bytes = unsigned{operation.bytes} * operation.elements;
  take_addresses(warp, operation.operand[operation.elements], (operation.flags & wide_address) != 0,
                 operation.immediate, access);
  drop_equal_stores(warp, operation, access);
  locate(warp, operation.space, access);
  if (access.strong) order_strong(warp, operation, access, false, true);
  switch (operation.bytes) {
    case 1:
      return move_out<std::uint16_t, std::uint8_t>(warp, operation, access);
    case 2:
      return move_out<std::uint16_t, std::uint16_t>(warp, operation, access);
    case 4:
      return move_out<std::uint32_t, std::uint32_t>(warp, operation, access);
    default:
      return move_out<std::uint64_t, std::uint64_t>(warp, operation, access);
  }
}

void atomic(Warp& warp, const Operation& operation) {
  Access access;
  const bool exchanges = operation.reduction == static_cast<std::uint8_t>(Reduction::exch);
  access.kind = exchanges ? AccessKind::write_strong : AccessKind::update;
  access.bytes = operation.bytes;
  take_addresses(warp, operation.operand[1], (operation.flags & wide_address) != 0, operation.immediate, access);
  order_strong(warp, operation, access, true, true);
  locate(warp, operation.space, access);
  switch (operation.bytes) {
    case 2:
      return update_lanes<std::uint16_t>(warp, operation, access);
    case 4:
      return update_lanes<std::uint32_t>(warp, operation, access);
    default:
      return update_lanes<std::uint64_t>(warp, operation, access);
  }
}

}  // namespace apb::ptx
