#include "cpu/onednn.hpp"

#include <array>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace apb::cpu {
namespace {

dnnl::memory::data_type dnnl_type(DataType type) {
  switch (type) {
    case DataType::f32:
      return dnnl::memory::data_type::f32;
    case DataType::bf16:
      return dnnl::memory::data_type::bf16;
    default:
      throw std::invalid_argument("products take f32 or bf16");
  }
}

bool is_fast_with_blocked_weights(DataType type) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const auto square = dense(type, 64, 64);
  try {
    const std::string_view name = plan(engine, {square, blocked_weight(type, 64, 64), square}).impl_info_str();
    return name.starts_with("brg");
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace

bool has_blocked_products(DataType type) {
  static const bool with_bf16 = is_fast_with_blocked_weights(DataType::bf16);
  static const bool with_f32 = is_fast_with_blocked_weights(DataType::f32);
  return type == DataType::bf16 ? with_bf16 : with_f32;
}

DataType product_type(DataType compute_type) {
  return compute_type == DataType::bf16 && has_blocked_products(DataType::bf16) ? DataType::bf16 : DataType::f32;
}

dnnl::memory::desc dense(DataType type, std::int64_t rows, std::int64_t columns) {
  return {dnnl::memory::dims{rows, columns}, dnnl_type(type), dnnl::memory::format_tag::ab};
}

dnnl::memory::desc transposed(DataType type, std::int64_t rows, std::int64_t columns) {
  return {dnnl::memory::dims{rows, columns}, dnnl_type(type), dnnl::memory::format_tag::ba};
}

dnnl::memory::desc blocked_weight(DataType type, std::int64_t rows, std::int64_t columns) {
  using Tag = dnnl::memory::format_tag;
  const Tag tag = type == DataType::bf16 ? Tag::BA16a64b2a : Tag::BA16a64b;
  return {dnnl::memory::dims{rows, columns}, dnnl_type(type), tag};
}

dnnl::matmul::primitive_desc plan(const dnnl::engine& engine, const ProductShape& shape) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_fpmath_mode(dnnl::fpmath_mode::strict);
  if (shape.accumulate) {
    dnnl::post_ops add;
    add.append_sum(1.0F);
    attributes.set_post_ops(add);
  }
  const std::int64_t columns = shape.out.get_dims().back();
  const auto bias = shape.bias ? dense(DataType::f32, 1, columns) : dnnl::memory::desc();
  return {engine, shape.left, shape.right, bias, shape.out, attributes};
}

Product::Product(const dnnl::engine& engine, const ProductShape& shape) : Product(plan(engine, shape)) {}

Product::Product(const dnnl::matmul::primitive_desc& planned)
    : primitive_(planned),
      left_(planned.src_desc(), planned.get_engine(), DNNL_MEMORY_NONE),
      right_(planned.weights_desc(), planned.get_engine(), DNNL_MEMORY_NONE),
      bias_(planned.bias_desc(), planned.get_engine(), DNNL_MEMORY_NONE),
      out_(planned.dst_desc(), planned.get_engine(), DNNL_MEMORY_NONE),
      scratch_(planned.scratchpad_desc(), planned.get_engine(), DNNL_MEMORY_NONE),
      scratch_bytes_(planned.scratchpad_desc().get_size()) {}

void Product::run(const dnnl::stream& stream, const std::byte* left, const std::byte* right, std::byte* out,
                  std::byte* scratch, const std::byte* bias) {
  left_.set_data_handle(const_cast<std::byte*>(left));
  right_.set_data_handle(const_cast<std::byte*>(right));
  bias_.set_data_handle(const_cast<std::byte*>(bias));
  out_.set_data_handle(out);
  scratch_.set_data_handle(scratch);
  // The C interface, because the C++ one allocates its argument list on every call.
  const std::array<dnnl_exec_arg_t, 5> arguments{{{DNNL_ARG_SRC, left_.get()},
                                                  {DNNL_ARG_WEIGHTS, right_.get()},
                                                  {DNNL_ARG_DST, out_.get()},
                                                  {DNNL_ARG_SCRATCHPAD, scratch_.get()},
                                                  {DNNL_ARG_BIAS, bias_.get()}}};
  const int count = bias == nullptr ? 4 : 5;
  dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive_.get(), stream.get(), count, arguments.data()),
                          "could not run a matrix product");
}

}  // namespace apb::cpu
