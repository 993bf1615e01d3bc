// The cuBLASLt stand-in against double precision, and what it refuses.
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cuda/device_memory.hpp"
#include "standin/runtime.hpp"

namespace apb::cuda {
namespace {

struct Case {
  std::int64_t rows, outputs, inputs;
  DataType type;
  bool accumulate, bias;
};

/// out [rows, outputs] = x [rows, inputs] weight^T + bias, as the CUDA device asks for it.
class Product {
 public:
  Product(const Case& test, Random& random)
      : test_(test),
        x_(DataType::bf16, test.rows, test.inputs, test.inputs + 8, random.numbers(test.rows * test.inputs)),
        weight_(DataType::bf16, test.outputs, test.inputs, test.inputs + 16,
                random.numbers(test.outputs * test.inputs)),
        bias_(test.type, 1, test.outputs, test.outputs, random.numbers(test.outputs)),
        out_(test.type, test.rows, test.outputs, test.outputs + 24, random.numbers(test.rows * test.outputs)),
        workspace_(std::size_t{4} << 20U) {}

  cublasStatus_t run(std::size_t out_offset = 0, std::size_t workspace = std::size_t{4} << 20U) {
    const cudaDataType_t type = test_.type == DataType::f32 ? CUDA_R_32F : CUDA_R_16BF;
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t transpose = CUBLAS_OP_T;
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    if (test_.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const void* const bias = bias_.view().data;
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    }
    cublasLtMatrixLayout_t weight = layout(weight_.view()), x = layout(x_.view()), out = layout(out_.view());
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulPreferenceCreate(&preference);
    const std::uint64_t largest = std::uint64_t{4} << 20U;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &largest,
                                         sizeof largest);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(nullptr, operation, weight, x, out, out, preference, 1, &result, &found);
    const float one = 1.0F, beta = test_.accumulate ? 1.0F : 0.0F;
    std::byte* const data = out_.view().data + out_offset;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmul(nullptr, operation, &one, weight_.view().data, weight, x_.view().data, x, &beta, data,
                              out, data, out, &result.algo, workspace_.data(), workspace, nullptr);
    }
    for (auto* const used : {weight, x, out}) cublasLtMatrixLayoutDestroy(used);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(operation);
    return status;
  }

  /// In double precision, with the output as it is now to add to.
  Numbers expected() const {
    const Numbers x = x_.read(), weight = weight_.read(), bias = bias_.read(), before = out_.read();
    Numbers result;
    for (std::int64_t row = 0; row < test_.rows; ++row) {
      for (std::int64_t output = 0; output < test_.outputs; ++output) {
        double sum = test_.bias ? bias[static_cast<std::size_t>(output)] : 0.0;
        if (test_.accumulate) sum += before[result.size()];
        for (std::int64_t k = 0; k < test_.inputs; ++k) {
          sum += x[static_cast<std::size_t>(row * test_.inputs + k)] *
                 weight[static_cast<std::size_t>(output * test_.inputs + k)];
        }
        result.push_back(sum);
      }
    }
    return result;
  }
  const DeviceMatrix& out() const { return out_; }

 private:
  static cublasLtMatrixLayout_t layout(const View& view) {
    cublasLtMatrixLayout_t result = nullptr;
    cublasLtMatrixLayoutCreate(&result, view.type == DataType::f32 ? CUDA_R_32F : CUDA_R_16BF,
                               static_cast<std::uint64_t>(view.columns), static_cast<std::uint64_t>(view.rows),
                               view.stride);
    return result;
  }

  Case test_;
  DeviceMatrix x_, weight_, bias_, out_;
  DeviceBytes workspace_;
};

TEST(CublasLt, AgreesWithDoublePrecision) {
  Random random;
  for (const Case& test : {Case{1, 1, 8, DataType::f32, false, false}, Case{7, 33, 40, DataType::f32, true, false},
                           Case{65, 31, 24, DataType::bf16, false, true}, Case{13, 70, 128, DataType::f32, true, true},
                           Case{6, 32, 576, DataType::bf16, false, false}}) {
    Product product(test, random);
    const Numbers expected = product.expected();
    ASSERT_EQ(product.run(), CUBLAS_STATUS_SUCCESS);
    const Numbers found = product.out().read();
    const double tolerance = test.type == DataType::f32 ? 1e-5 : 0.004;
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_TRUE(std::abs(found[i] - expected[i]) <= tolerance * std::max(1.0, std::abs(expected[i])))
          << test.rows << " x " << test.outputs << ", element " << i << ": " << found[i] << ", not " << expected[i];
    }
    EXPECT_TRUE(product.out().poison_is_whole());
  }
}

TEST(CublasLt, HoldsTheCallerToWhatTheHeuristicWasTold) {
  Random random;
  Product product({4, 16, 16, DataType::f32, false, false}, random);
  EXPECT_EQ(product.run(16), CUBLAS_STATUS_INVALID_VALUE) << "an address less aligned than was said";
  EXPECT_EQ(product.run(0, 1024), CUBLAS_STATUS_INVALID_VALUE) << "too little workspace";
  EXPECT_EQ(product.run(), CUBLAS_STATUS_SUCCESS);
}

TEST(CublasLt, AnAttributeOfAnotherSizeIsRefused) {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const std::int64_t wrong_size = 0;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &wrong_size, sizeof wrong_size),
            CUBLAS_STATUS_INVALID_VALUE);
  cublasLtMatmulDescDestroy(operation);
}

}  // namespace
}  // namespace apb::cuda
