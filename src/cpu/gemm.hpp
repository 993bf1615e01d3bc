// Matrix products with packed weights, by oneDNN.
#pragma once

#include <memory>
#include <span>

#include "device/device.hpp"

namespace apb::cpu {

class Gemm {
 public:
  Gemm(int threads, DataType compute_type);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Device::pack.
  std::unique_ptr<Weight> pack(std::span<const ConstView> stacked, std::span<const ConstView> biases);
  /// Device::linear.
  void linear(ConstView x, const Weight& weight, View out, bool accumulate);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace apb::cpu
