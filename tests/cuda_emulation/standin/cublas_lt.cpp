// The functions of cuBLASLt that the project calls: D = alpha A^T B + beta C + bias, column-major, A and B of bf16, the
// rest of bf16 or f32. What the real library takes on trust (alignments promised to the heuristic, the workspace that
// an algorithm needs, that D overlaps nothing) is checked.
#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "product.hpp"
#include "runtime.hpp"

using namespace apb::emulation;

namespace {

constexpr std::size_t workspace_bytes = std::size_t{1} << 20U;  // what the stand-in's one algorithm asks for

// What is in the opaque structures.
struct Layout {
  cudaDataType_t type;
  std::uint64_t rows, columns;
  std::int64_t stride;  // from column to column
};
struct Description {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t transpose_a, transpose_b;
  cublasLtEpilogue_t epilogue;
  cudaDataType_t bias_type;
  const void* bias;
};
struct Preference {
  std::uint64_t workspace;
  std::uint32_t alignment_a, alignment_b, alignment_c, alignment_d;
};
struct Algorithm {
  std::uint64_t workspace;
  std::uint64_t fingerprint;  // of the layouts it was chosen for
  std::uint32_t alignment_a, alignment_b, alignment_c, alignment_d;
};

template <typename Content, typename Opaque>
Content content_of(const Opaque* opaque) {
  static_assert(sizeof(Content) <= sizeof(Opaque) && std::is_trivially_copyable_v<Content>);
  Content content;
  std::memcpy(&content, opaque, sizeof content);
  return content;
}

template <typename Content, typename Opaque>
void store(const Content& content, Opaque* opaque) {
  static_assert(sizeof(Content) <= sizeof(Opaque));
  std::memcpy(opaque, &content, sizeof content);
}

template <typename Opaque, typename Content>
cublasStatus_t create(Opaque** handle, const Content& content) {
  auto owned = std::make_unique<Opaque>();
  store(content, owned.get());
  *handle = owned.release();  // until the program destroys it
  return CUBLAS_STATUS_SUCCESS;
}

template <typename Opaque>
cublasStatus_t destroy(Opaque* handle) {
  const std::unique_ptr<Opaque> owned(handle);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename Value>
cublasStatus_t set(Value& value, const void* data, std::size_t bytes) {
  if (data == nullptr || bytes != sizeof value) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&value, data, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t refuse(cublasStatus_t status, const std::string& why) {
  std::fprintf(stderr, "emulated cuBLASLt: %s\n", why.c_str());
  return status;
}

std::size_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }
bool is_output(cudaDataType_t type) { return type == CUDA_R_32F || type == CUDA_R_16BF; }

bool known(const Description& operation, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const bool bias = operation.epilogue == CUBLASLT_EPILOGUE_BIAS;
  return operation.compute == CUBLAS_COMPUTE_32F && operation.scale == CUDA_R_32F &&
         operation.transpose_a == CUBLAS_OP_T && operation.transpose_b == CUBLAS_OP_N &&
         (operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT || (bias && operation.bias_type == d.type)) &&
         a.type == CUDA_R_16BF && b.type == CUDA_R_16BF && is_output(d.type) && c.type == d.type;
}

bool fits(const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const auto well = [](const Layout& layout) { return layout.stride >= static_cast<std::int64_t>(layout.rows); };
  return well(a) && well(b) && well(c) && well(d) && a.rows == b.rows && d.rows == a.columns &&
         d.columns == b.columns && c.rows == d.rows && c.columns == d.columns;
}

std::uint64_t fingerprint_of(const Description& operation, std::initializer_list<Layout> layouts) {
  std::uint64_t hash = static_cast<std::uint64_t>(operation.epilogue);
  const auto mix = [&](std::uint64_t value) { hash = (hash ^ value) * 0x9e3779b97f4a7c15U; };
  for (const Layout& layout : layouts) {
    mix(static_cast<std::uint64_t>(layout.type));
    mix(layout.rows);
    mix(layout.columns);
    mix(static_cast<std::uint64_t>(layout.stride));
  }
  return hash;
}

/// One product, when it runs.
struct Product {
  Description operation;
  Layout a_layout, b_layout, d_layout, c_layout;
  const std::byte *a, *b, *c;
  std::byte* d;
  std::byte* workspace;
  float alpha, beta;

  void run() const;
  void check_operands() const;
  void write(const std::vector<float>& numbers) const;
};

float read(const std::byte* data, cudaDataType_t type, std::size_t index) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, data + index * size_of(type), size_of(type));
  return std::bit_cast<float>(type == CUDA_R_32F ? bits : bits << 16U);
}

std::uint16_t rounded_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16U) & 1U)) >> 16U);
}

void check_columns(const std::byte* data, const Layout& layout) {
  for (std::uint64_t column = 0; column < layout.columns; ++column) {
    Runtime::instance().machine.memory().check_readable(
        data + column * static_cast<std::uint64_t>(layout.stride) * size_of(layout.type),
        layout.rows * size_of(layout.type));
  }
}

void Product::check_operands() const {
  check_columns(a, a_layout);
  check_columns(b, b_layout);
  if (beta != 0.0F) check_columns(c, c_layout);
  if (operation.epilogue == CUBLASLT_EPILOGUE_BIAS) {
    Runtime::instance().machine.memory().check_readable(operation.bias, d_layout.rows * size_of(d_layout.type));
  }
}

void Product::run() const {
  check_operands();
  if (workspace != nullptr) {  // what was there is lost
    std::memset(workspace, 0xFF, workspace_bytes);
    Runtime::instance().machine.memory().mark_unwritten(workspace, workspace_bytes);
  }
  const auto matrix = [](const std::byte* data, const Layout& layout) {
    return Bf16Matrix{reinterpret_cast<const std::uint16_t*>(data), static_cast<std::int64_t>(layout.columns),
                      static_cast<std::int64_t>(layout.rows), layout.stride};
  };
  write(product(matrix(b, b_layout), matrix(a, a_layout)));
}

void Product::write(const std::vector<float>& numbers) const {
  const bool bias = operation.epilogue == CUBLASLT_EPILOGUE_BIAS;
  for (std::uint64_t column = 0; column < d_layout.columns; ++column) {
    std::byte* const to = d + column * static_cast<std::uint64_t>(d_layout.stride) * size_of(d_layout.type);
    const std::byte* const from = c + column * static_cast<std::uint64_t>(c_layout.stride) * size_of(c_layout.type);
    for (std::uint64_t row = 0; row < d_layout.rows; ++row) {
      float value = alpha * numbers[column * d_layout.rows + row];
      if (beta != 0.0F) value += beta * read(from, c_layout.type, row);
      if (bias) value += read(static_cast<const std::byte*>(operation.bias), operation.bias_type, row);
      if (d_layout.type == CUDA_R_32F) {
        std::memcpy(to + row * 4, &value, 4);
      } else {
        const std::uint16_t bits = rounded_to_bf16(value);
        std::memcpy(to + row * 2, &bits, 2);
      }
    }
    Runtime::instance().machine.memory().mark_written(to, d_layout.rows * size_of(d_layout.type));
  }
}

bool overlaps_output(const Product& product) {
  const auto end = [](const std::byte* data, const Layout& layout) {
    return data +
           ((layout.columns - 1) * static_cast<std::uint64_t>(layout.stride) + layout.rows) * size_of(layout.type);
  };
  const std::byte* const d_end = end(product.d, product.d_layout);
  const auto overlaps = [&](const std::byte* data, const std::byte* data_end) {
    return data < d_end && product.d < data_end;
  };
  return overlaps(product.a, end(product.a, product.a_layout)) ||
         overlaps(product.b, end(product.b, product.b_layout)) ||
         (product.workspace != nullptr && overlaps(product.workspace, product.workspace + workspace_bytes)) ||
         (product.c != product.d && overlaps(product.c, end(product.c, product.c_layout)));
}

bool aligned(const void* pointer, std::uint32_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&Runtime::instance());
  return Runtime::instance().settings.gpus > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t /*handle*/) { return CUBLAS_STATUS_SUCCESS; }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an invalid value was passed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "not supported";
    default:
      return "the launch failed";
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, std::uint64_t rows,
                                          std::uint64_t columns, std::int64_t stride) {
  return create(layout, Layout{type, rows, columns, stride});
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return create(operation,
                Description{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, {}, nullptr});
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) { return destroy(operation); }

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle, cublasLtMatmulDescAttributes_t attribute,
                                              const void* data, std::size_t bytes) {
  auto operation = content_of<Description>(handle);
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSA) status = set(operation.transpose_a, data, bytes);
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSB) status = set(operation.transpose_b, data, bytes);
  if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE) status = set(operation.epilogue, data, bytes);
  if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER) status = set(operation.bias, data, bytes);
  if (attribute == CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE) status = set(operation.bias_type, data, bytes);
  store(operation, handle);
  return status;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return create(preference, Preference{0, 256, 256, 256, 256});
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return destroy(preference); }

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* data,
                                                    std::size_t bytes) {
  auto preference = content_of<Preference>(handle);
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) status = set(preference.workspace, data, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES) status = set(preference.alignment_a, data, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES) status = set(preference.alignment_b, data, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES) status = set(preference.alignment_c, data, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) status = set(preference.alignment_d, data, bytes);
  store(preference, handle);
  return status;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t operation_handle,
                                              cublasLtMatrixLayout_t a_handle, cublasLtMatrixLayout_t b_handle,
                                              cublasLtMatrixLayout_t c_handle, cublasLtMatrixLayout_t d_handle,
                                              cublasLtMatmulPreference_t preference_handle, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  const auto operation = content_of<Description>(operation_handle);
  const auto a = content_of<Layout>(a_handle), b = content_of<Layout>(b_handle);
  const auto c = content_of<Layout>(c_handle), d = content_of<Layout>(d_handle);
  const auto preference = content_of<Preference>(preference_handle);
  *found = 0;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (std::min({preference.alignment_a, preference.alignment_b, preference.alignment_c, preference.alignment_d}) == 0) {
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "an alignment of 0 bytes");
  }
  if (!fits(a, b, c, d)) return refuse(CUBLAS_STATUS_INVALID_VALUE, "the matrices' shapes do not fit each other");
  if (!known(operation, a, b, c, d)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "not a product that is emulated");
  const Algorithm algorithm{preference.workspace >= workspace_bytes ? workspace_bytes : 0,
                            fingerprint_of(operation, {a, b, c, d}),
                            preference.alignment_a,
                            preference.alignment_b,
                            preference.alignment_c,
                            preference.alignment_d};
  *results = {};
  store(algorithm, &results->algo);
  results->workspaceSize = algorithm.workspace;
  results->state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t operation_handle, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_handle, const void* b,
                              cublasLtMatrixLayout_t b_handle, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_handle, void* d, cublasLtMatrixLayout_t d_handle,
                              const cublasLtMatmulAlgo_t* algorithm_handle, void* workspace,
                              std::size_t given_workspace, cudaStream_t stream) {
  const auto algorithm = content_of<Algorithm>(algorithm_handle);
  const Product product{.operation = content_of<Description>(operation_handle),
                        .a_layout = content_of<Layout>(a_handle),
                        .b_layout = content_of<Layout>(b_handle),
                        .d_layout = content_of<Layout>(d_handle),
                        .c_layout = content_of<Layout>(c_handle),
                        .a = static_cast<const std::byte*>(a),
                        .b = static_cast<const std::byte*>(b),
                        .c = static_cast<const std::byte*>(c),
                        .d = static_cast<std::byte*>(d),
                        .workspace = algorithm.workspace > 0 ? static_cast<std::byte*>(workspace) : nullptr,
                        .alpha = *static_cast<const float*>(alpha),
                        .beta = *static_cast<const float*>(beta)};
  if (algorithm.fingerprint !=
      fingerprint_of(product.operation, {product.a_layout, product.b_layout, product.c_layout, product.d_layout})) {
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "the algorithm was chosen for other matrices");
  }
  if (!aligned(a, algorithm.alignment_a) || !aligned(b, algorithm.alignment_b) || !aligned(c, algorithm.alignment_c) ||
      !aligned(d, algorithm.alignment_d)) {
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "a matrix is less aligned than the heuristic was told");
  }
  if (given_workspace < algorithm.workspace || (algorithm.workspace > 0 && !aligned(workspace, 256))) {
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "the workspace is too small, or not aligned to 256 bytes");
  }
  if (overlaps_output(product)) return refuse(CUBLAS_STATUS_INVALID_VALUE, "the result overlaps an operand");
  const cudaError_t error = Runtime::instance().call([&] {
    if (Runtime::instance().find(stream) == nullptr) return cudaErrorInvalidResourceHandle;
    Runtime::instance().enqueue(stream, "matrix product", [product] { product.run(); });
    return cudaSuccess;
  });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
