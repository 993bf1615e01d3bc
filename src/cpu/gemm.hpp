// Matrix products with packed weights, by oneDNN.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "comm/node_memory.hpp"
#include "device/device.hpp"

namespace apb::cpu {

class Gemm {
 public:
  /// `node`: what the ranks of a node share, or nothing.
  Gemm(int threads, DataType compute_type, std::shared_ptr<NodeMemory> node);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Device::pack.
  std::unique_ptr<Weight> pack(std::span<const ConstView> stacked, std::span<const ConstView> biases);
  /// Device::reserve_weights.
  std::vector<ReservedWeight> reserve(std::span<const WeightShape> shapes);
  /// Device::fill.
  void fill(Weight& weight, std::span<const ConstView> stacked, std::span<const ConstView> biases) const;
  /// Device::linear.
  void linear(ConstView x, const Weight& weight, View out, bool accumulate);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace apb::cpu
