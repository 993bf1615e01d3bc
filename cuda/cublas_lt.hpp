// Matrix products by cuBLASLt: bf16 times bf16, accumulated in float32.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "cuda/arena.hpp"
#include "cuda/handles.hpp"
#include "device/device.hpp"

namespace apb::cuda {

/// A weight on the GPU: bf16 [outputs, inputs] row-major with `stride` a multiple of 8, the bias in both types that a
/// result may have.
class CudaWeight : public Weight {
 public:
  CudaWeight(const WeightShape& shape, Arena& arena);

  /// Matrix and biases together, as one row of i32.
  View memory() const;
  /// [outputs, inputs] bf16.
  View matrix() const { return matrix_; }
  /// [1, outputs] of the type f32 or bf16; empty where there is none.
  View bias(DataType type) const { return type == DataType::f32 ? bias_f32_ : bias_bf16_; }

 private:
  CudaWeight(const WeightShape& shape, Buffer memory);

  Buffer memory_;
  View matrix_;
  View bias_f32_{};
  View bias_bf16_{};
};

class CublasLt {
 public:
  explicit CublasLt(Arena& arena);

  /// Device::linear. What cuBLASLt's heuristics choose for a shape is kept.
  void linear(cudaStream_t stream, ConstView x, const CudaWeight& weight, View out, bool accumulate);

 private:
  using Handle = std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, Destroyer<cublasLtDestroy>>;
  using Operation = std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, Destroyer<cublasLtMatmulDescDestroy>>;
  using Layout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, Destroyer<cublasLtMatrixLayoutDestroy>>;
  using Preference =
      std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, Destroyer<cublasLtMatmulPreferenceDestroy>>;

  /// What an algorithm is chosen by.
  struct Shape {
    std::int64_t rows, outputs, inputs;
    std::int64_t x_stride, weight_stride, out_stride;
    DataType out_type;
    bool accumulate, bias;
    std::uint32_t x_alignment, out_alignment;  // of the addresses, in bytes

    auto operator<=>(const Shape&) const = default;
  };
  struct Plan {
    Operation operation;
    Layout weight, x, out;
    cublasLtMatmulAlgo_t algorithm{};
  };

  const Plan& plan_for(const Shape& shape);
  Plan make_plan(const Shape& shape) const;
  static Layout make_layout(DataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride);

  Handle handle_;
  Buffer workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace apb::cuda
