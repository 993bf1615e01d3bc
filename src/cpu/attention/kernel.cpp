#include "cpu/attention/kernel.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "cpu/attention/kernels.hpp"

namespace apb::cpu {
namespace {

bool everywhere() { return true; }
bool has_avx2() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16") != 0; }

/// Linux lets a process use tile registers after it has asked for them; the first call asks.
bool has_amx() {
  static const bool granted = [] {
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long tile_data = 18;
    return has_avx512_bf16() && __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("amx-bf16") != 0 &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return granted;
}
bool amx_head_dim(int head_dim) { return head_dim == 64 || head_dim == 128; }

bool any_head_dim(int /*head_dim*/) { return true; }

constexpr std::array kernels = {
    AttentionKernel{"amx", DataType::bf16, DataType::bf16, has_amx, amx_head_dim, attend_amx},
    AttentionKernel{"amx-accurate", DataType::bf16, DataType::bf16, has_amx, amx_head_dim, attend_amx_accurate},
    AttentionKernel{"avx512-bf16", DataType::bf16, DataType::bf16, has_avx512_bf16, any_head_dim, attend_avx512_bf16},
    AttentionKernel{"avx512", DataType::bf16, DataType::f32, has_avx512, any_head_dim, attend_avx512_bf16_as_float},
    AttentionKernel{"avx512", DataType::f32, DataType::f32, has_avx512, any_head_dim, attend_avx512_f32},
    AttentionKernel{"avx2", DataType::bf16, DataType::f32, has_avx2, any_head_dim, attend_avx2_bf16},
    AttentionKernel{"avx2", DataType::f32, DataType::f32, has_avx2, any_head_dim, attend_avx2_f32},
    AttentionKernel{"plain", DataType::bf16, DataType::f32, everywhere, any_head_dim, attend_plain_bf16},
    AttentionKernel{"plain", DataType::f32, DataType::f32, everywhere, any_head_dim, attend_plain_f32},
};

}  // namespace

std::span<const AttentionKernel> attention_kernels() { return kernels; }

}  // namespace apb::cpu
