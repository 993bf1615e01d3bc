// oneDNN in the few words that GEMM and attention need.
#pragma once

#include <omp.h>

#include <cstddef>
#include <cstdint>
#include <dnnl.hpp>

#include "cpu/scratch.hpp"
#include "device/view.hpp"

namespace apb::cpu {

/// OpenMP regions, and so oneDNN primitives made or run, use this many threads while it lives.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads) : saved_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ScopedThreads() { omp_set_num_threads(saved_); }
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  int saved_;
};

/// Whether oneDNN's fast products take weights of this type as blocked_weight lays them out; if not, theirs is plain.
bool has_blocked_products(DataType type);

/// The type that products of `compute_type` are computed in: f32 also for bf16 where the processor has no bf16
/// instructions, and oneDNN only a slow reference.
DataType product_type(DataType compute_type);

/// A matrix [rows, columns], one row after the other. With gaps between the rows oneDNN falls back to slow code, down
/// to its reference.
dnnl::memory::desc dense(DataType type, std::int64_t rows, std::int64_t columns);

/// A matrix [rows, columns], one column after the other.
dnnl::memory::desc transposed(DataType type, std::int64_t rows, std::int64_t columns);

/// A matrix [rows, columns] in strips of 64 columns, words of 32 bits along the rows, 16 words to a block (filled up
/// with zeros): what oneDNN chooses itself for weights on processors with AVX-512 or AMX.
dnnl::memory::desc blocked_weight(DataType type, std::int64_t rows, std::int64_t columns);

struct ProductShape {
  dnnl::memory::desc left;   // [m, k]
  dnnl::memory::desc right;  // [k, n]
  dnnl::memory::desc out;    // [m, n]
  bool accumulate = false;
  bool bias = false;  // f32 [1, n]
};

/// How oneDNN would compute the product; f32 is never lowered to a narrower type.
dnnl::matmul::primitive_desc plan(const dnnl::engine& engine, const ProductShape& shape);

/// out = left right + bias, or out += the same. Made and run under the same number of threads, by one caller at a time.
class Product {
 public:
  Product(const dnnl::engine& engine, const ProductShape& shape);

  std::size_t scratch_bytes() const { return scratch_bytes_; }
  /// `bias` exactly where the product was planned with one.
  void run(const dnnl::stream& stream, const std::byte* left, const std::byte* right, std::byte* out,
           std::byte* scratch, const std::byte* bias = nullptr);

 private:
  explicit Product(const dnnl::matmul::primitive_desc& planned);

  dnnl::matmul primitive_;
  dnnl::memory left_;
  dnnl::memory right_;
  dnnl::memory bias_;  // empty without one
  dnnl::memory out_;
  dnnl::memory scratch_;
  std::size_t scratch_bytes_;
};

}  // namespace apb::cpu
