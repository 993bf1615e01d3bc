// Where the weights of a model come from: matrices by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "device/view.hpp"

namespace apb {

/// A matrix in host memory, dense, with what keeps that memory there.
struct HostMatrix {
  ConstView view{};
  std::shared_ptr<const std::byte> memory{};
};

class WeightSource {
 public:
  WeightSource() = default;
  virtual ~WeightSource() = default;
  WeightSource(const WeightSource&) = default;
  WeightSource(WeightSource&&) = default;
  WeightSource& operator=(const WeightSource&) = default;
  WeightSource& operator=(WeightSource&&) = default;

  /// The first extent of a tensor's shape. Fails where the tensor is missing or has none.
  virtual std::int64_t rows(std::string_view name) const = 0;

  /// [rows, columns] in BF16, F16 or F32. All of it is read or made by this call, so ask for a tensor only where it is
  /// used, and let go of it then. Fails where the tensor is missing, of another shape or type, or not finite.
  virtual HostMatrix tensor(std::string_view name, std::int64_t rows, std::int64_t columns) const = 0;
};

}  // namespace apb
