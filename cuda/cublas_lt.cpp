// cuBLASLt's matrices are column-major, so that our row-major out = x weight^T is to it
// out^T [outputs, rows] = weight [outputs, inputs] x^T: `weight` is its A, transposed, and `x` its B.
#include "cuda/cublas_lt.hpp"

#include <utility>

#include "error.hpp"

namespace apb::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20U;  // what NVIDIA recommends for Hopper
constexpr std::int64_t stride_step = 8;                          // 16 bytes of bf16: what tensor cores load at once
constexpr std::uint32_t largest_alignment = 256;

std::int64_t padded(std::int64_t count) { return (count + stride_step - 1) / stride_step * stride_step; }

std::size_t matrix_bytes(const WeightShape& shape) {
  return view_bytes(DataType::bf16, shape.outputs, padded(shape.inputs));
}

/// In both types.
std::size_t bias_bytes(const WeightShape& shape) {
  const std::int64_t outputs = padded(shape.outputs);
  return view_bytes(DataType::f32, 1, outputs) + view_bytes(DataType::bf16, 1, outputs);
}

cudaDataType_t cuda_type(DataType type) { return type == DataType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

std::uint32_t alignment_of(const std::byte* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data) | largest_alignment;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

template <typename Value>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
        "cublasLtMatmulPreferenceSetAttribute");
}

}  // namespace

CudaWeight::CudaWeight(const WeightShape& shape, Arena& arena)
    : CudaWeight(shape, arena.allocate(matrix_bytes(shape) + (shape.bias ? bias_bytes(shape) : 0))) {}

CudaWeight::CudaWeight(const WeightShape& shape, Buffer memory)
    : Weight(shape.outputs, shape.inputs, memory.bytes()), memory_(std::move(memory)) {
  matrix_ = memory_.view(DataType::bf16, shape.outputs, padded(shape.inputs));
  matrix_.columns = shape.inputs;
  if (!shape.bias) return;
  const std::size_t first = matrix_bytes(shape);
  bias_f32_ = memory_.view(DataType::f32, 1, shape.outputs, first);
  bias_bf16_ =
      memory_.view(DataType::bf16, 1, shape.outputs, first + view_bytes(DataType::f32, 1, padded(shape.outputs)));
}

View CudaWeight::memory() const {
  return memory_.view(DataType::i32, 1, static_cast<std::int64_t>(memory_.bytes() / size_of(DataType::i32)));
}

CublasLt::CublasLt(Arena& arena) : workspace_(arena.allocate(workspace_bytes)) {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
}

void CublasLt::linear(cudaStream_t stream, ConstView x, const CudaWeight& weight, View out, bool accumulate) {
  if (out.empty()) return;
  const ConstView matrix = weight.matrix();
  const View bias = weight.bias(out.type);
  const Plan& plan = plan_for({.rows = x.rows,
                               .outputs = weight.outputs(),
                               .inputs = weight.inputs(),
                               .x_stride = x.stride,
                               .weight_stride = matrix.stride,
                               .out_stride = out.stride,
                               .out_type = out.type,
                               .accumulate = accumulate,
                               .bias = !bias.empty(),
                               .x_alignment = alignment_of(x.data),
                               .out_alignment = alignment_of(out.data)});
  if (!bias.empty()) set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
  const float one = 1.0F;
  const float beta = accumulate ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle_.get(), plan.operation.get(), &one, matrix.data, plan.weight.get(), x.data, plan.x.get(),
                       &beta, out.data, plan.out.get(), out.data, plan.out.get(), &plan.algorithm, workspace_.data(),
                       workspace_bytes, stream),
        "cublasLtMatmul");
}

const CublasLt::Plan& CublasLt::plan_for(const Shape& shape) {
  auto found = plans_.find(shape);
  if (found == plans_.end()) found = plans_.emplace(shape, make_plan(shape)).first;
  return found->second;
}

CublasLt::Plan CublasLt::make_plan(const Shape& shape) const {
  Plan plan;
  cublasLtMatmulDesc_t operation = nullptr;
  check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  plan.operation.reset(operation);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (shape.bias) {
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(shape.out_type));
  }
  plan.weight = make_layout(DataType::bf16, shape.inputs, shape.outputs, shape.weight_stride);
  plan.x = make_layout(DataType::bf16, shape.inputs, shape.rows, shape.x_stride);
  plan.out = make_layout(shape.out_type, shape.outputs, shape.rows, shape.out_stride);

  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created), "cublasLtMatmulPreferenceCreate");
  const Preference preference(created);
  set(created, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, largest_alignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.x_alignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.out_alignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.out_alignment);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_.get(), operation, plan.weight.get(), plan.x.get(), plan.out.get(),
                                     plan.out.get(), created, 1, &result, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || found == 0) {
    fail("cuBLAS has no algorithm for {} rows, {} inputs and {} outputs: use --device cpu for this model", shape.rows,
         shape.inputs, shape.outputs);
  }
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  plan.algorithm = result.algo;
  return plan;
}

/// Of a row-major matrix [columns, rows] as cuBLASLt sees it.
CublasLt::Layout CublasLt::make_layout(DataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, cuda_type(type), static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(columns), stride),
        "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

}  // namespace apb::cuda
