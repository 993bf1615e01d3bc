// Rows of views as arrays, and loops over them on several threads.
#pragma once

#include <cstdint>
#include <exception>

#include "cpu/bf16.hpp"
#include "device/view.hpp"

namespace apb::cpu {

/// Row `index` of a view, whose elements are `Element`.
template <typename Element>
const Element* row_of(const ConstView& view, std::int64_t index) {
  return reinterpret_cast<const Element*>(view.row(index));
}
template <typename Element>
Element* row_of(const View& view, std::int64_t index) {
  return reinterpret_cast<Element*>(view.row(index));
}

/// body(index) for every index below `count`, shared out to `threads` threads; throws what one of them throws.
template <typename Body>
void for_each_index(int threads, std::int64_t count, const Body& body) {
  std::exception_ptr thrown;
#pragma omp parallel for num_threads(threads) if (count > 1 && threads > 1)
  for (std::int64_t index = 0; index < count; ++index) {
    try {
      body(index);
    } catch (...) {
#pragma omp critical
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

/// body(element) with a zero of the C++ type that stands for `type`: f32 or bf16.
template <typename Body>
void with_element(DataType type, const Body& body) {
  if (type == DataType::bf16) {
    body(Bf16{});
  } else {
    body(float{});
  }
}

}  // namespace apb::cpu
