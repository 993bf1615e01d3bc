// One kernel for an instruction: d[i] = instruction(a[i], b[i], c[i]).
#include <cstdint>

using S16 = std::int16_t;
using U16 = std::uint16_t;
using S32 = std::int32_t;
using U32 = std::uint32_t;
using S64 = std::int64_t;
using U64 = std::uint64_t;

#define INDEX                                      \
  int i = blockIdx.x * blockDim.x + threadIdx.x; \
  if (i >= n) return

#define OP1(name, code, D, d_register, A, a_register)                        \
  extern "C" __global__ void name(const A* a, D* d, int n) {                 \
    INDEX;                                                                   \
    asm volatile(code " %0, %1;" : "=" d_register(d[i]) : a_register(a[i])); \
  }
#define OP2(name, code, D, d_register, A, a_register, B, b_register)                                 \
  extern "C" __global__ void name(const A* a, const B* b, D* d, int n) {                             \
    INDEX;                                                                                           \
    asm volatile(code " %0, %1, %2;" : "=" d_register(d[i]) : a_register(a[i]), b_register(b[i])); \
  }
#define OP3(name, code, D, d_register, A, a_register, B, b_register, C, c_register)                 \
  extern "C" __global__ void name(const A* a, const B* b, const C* c, D* d, int n) {                \
    INDEX;                                                                                          \
    asm volatile(code " %0, %1, %2, %3;"                                                            \
                 : "=" d_register(d[i])                                                             \
                 : a_register(a[i]), b_register(b[i]), c_register(c[i]));                           \
  }
// The comparison's result as 0 or 1.
#define COMPARE(name, code, T, t_register)                                                                       \
  extern "C" __global__ void name(const T* a, const T* b, U32* d, int n) {                                       \
    INDEX;                                                                                                       \
    asm volatile("{ .reg .pred p; " code " p, %1, %2; selp.u32 %0, 1, 0, p; }" : "=r"(d[i]) : t_register(a[i]), \
                 t_register(b[i]));                                                                              \
  }

#define INTEGER(type, T, r)                                   \
  OP2(add_##type, "add." #type, T, r, T, r, T, r)             \
  OP2(sub_##type, "sub." #type, T, r, T, r, T, r)             \
  OP2(mul_lo_##type, "mul.lo." #type, T, r, T, r, T, r)       \
  OP2(mul_hi_##type, "mul.hi." #type, T, r, T, r, T, r)       \
  OP3(mad_lo_##type, "mad.lo." #type, T, r, T, r, T, r, T, r) \
  OP2(div_##type, "div." #type, T, r, T, r, T, r)             \
  OP2(rem_##type, "rem." #type, T, r, T, r, T, r)             \
  OP2(min_##type, "min." #type, T, r, T, r, T, r)             \
  OP2(max_##type, "max." #type, T, r, T, r, T, r)             \
  OP2(shr_##type, "shr." #type, T, r, T, r, U32, "r")         \
  COMPARE(lt_##type, "setp.lt." #type, T, r)                  \
  COMPARE(le_##type, "setp.le." #type, T, r)                  \
  COMPARE(ge_##type, "setp.ge." #type, T, r)                  \
  COMPARE(eq_##type, "setp.eq." #type, T, r)                  \
  COMPARE(ne_##type, "setp.ne." #type, T, r)
INTEGER(s16, S16, "h")
INTEGER(u16, U16, "h")
INTEGER(s32, S32, "r")
INTEGER(u32, U32, "r")
INTEGER(s64, S64, "l")
INTEGER(u64, U64, "l")
OP1(neg_s32, "neg.s32", S32, "r", S32, "r")
OP1(abs_s64, "abs.s64", S64, "l", S64, "l")
OP2(mul_wide_s16, "mul.wide.s16", S32, "r", S16, "h", S16, "h")
OP2(mul_wide_u16, "mul.wide.u16", U32, "r", U16, "h", U16, "h")
OP2(mul_wide_s32, "mul.wide.s32", S64, "l", S32, "r", S32, "r")
OP2(mul_wide_u32, "mul.wide.u32", U64, "l", U32, "r", U32, "r")
OP3(mad_wide_s32, "mad.wide.s32", S64, "l", S32, "r", S32, "r", S64, "l")
OP3(mad_hi_u32, "mad.hi.u32", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(sad_s32, "sad.s32", S32, "r", S32, "r", S32, "r", S32, "r")
OP3(dp4a_s32, "dp4a.s32.s32", S32, "r", S32, "r", S32, "r", S32, "r")
OP2(add_sat_s32, "add.sat.s32", S32, "r", S32, "r", S32, "r")

#define BITS(type, T, r)                               \
  OP2(and_##type, "and." #type, T, r, T, r, T, r)      \
  OP2(or_##type, "or." #type, T, r, T, r, T, r)        \
  OP2(xor_##type, "xor." #type, T, r, T, r, T, r)      \
  OP1(not_##type, "not." #type, T, r, T, r)            \
  OP2(shl_##type, "shl." #type, T, r, T, r, U32, "r")
BITS(b16, U16, "h")
BITS(b32, U32, "r")
BITS(b64, U64, "l")
OP1(brev_b32, "brev.b32", U32, "r", U32, "r")
OP1(brev_b64, "brev.b64", U64, "l", U64, "l")
OP1(clz_b32, "clz.b32", U32, "r", U32, "r")
OP1(clz_b64, "clz.b64", U32, "r", U64, "l")
OP1(popc_b32, "popc.b32", U32, "r", U32, "r")
OP1(popc_b64, "popc.b64", U32, "r", U64, "l")
OP1(bfind_u32, "bfind.u32", U32, "r", U32, "r")
OP1(bfind_s32, "bfind.s32", U32, "r", S32, "r")
OP3(bfe_u32, "bfe.u32", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(bfe_s32, "bfe.s32", S32, "r", S32, "r", U32, "r", U32, "r")
OP3(bfe_u64, "bfe.u64", U64, "l", U64, "l", U32, "r", U32, "r")
OP3(prmt_b32, "prmt.b32", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(shf_l_wrap, "shf.l.wrap.b32", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(shf_r_wrap, "shf.r.wrap.b32", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(shf_l_clamp, "shf.l.clamp.b32", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(shf_r_clamp, "shf.r.clamp.b32", U32, "r", U32, "r", U32, "r", U32, "r")
extern "C" __global__ void lop3_1b(const U32* a, const U32* b, const U32* c, U32* d, int n) {
  INDEX;
  asm volatile("lop3.b32 %0, %1, %2, %3, 0x1b;" : "=r"(d[i]) : "r"(a[i]), "r"(b[i]), "r"(c[i]));
}
extern "C" __global__ void bfi_b32(const U32* a, const U32* b, const U32* c, U32* d, int n) {
  INDEX;
  asm volatile("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(d[i]) : "r"(a[i]), "r"(b[i]), "r"(c[i] & 63), "r"(c[i] >> 6 & 63));
}
extern "C" __global__ void slct_u32(const U32* a, const U32* b, const S32* c, U32* d, int n) {
  INDEX;
  asm volatile("slct.u32.s32 %0, %1, %2, %3;" : "=r"(d[i]) : "r"(a[i]), "r"(b[i]), "r"(c[i]));
}
// Two predicates, combined with a third one.
extern "C" __global__ void setp_pair(const S32* a, const S32* b, const S32* c, U32* d, int n) {
  INDEX;
  asm volatile(
      "{ .reg .pred p, q, r; setp.gt.s32 r, %3, 0; setp.lt.and.s32 p|q, %1, %2, !r; selp.u32 %0, 1, 0, p; @q or.b32 %0, %0, 2; }"
      : "=r"(d[i])
      : "r"(a[i]), "r"(b[i]), "r"(c[i]));
}

#define FLOAT(type, T, r)                                  \
  OP2(add_##type, "add.rn." #type, T, r, T, r, T, r)       \
  OP2(sub_##type, "sub.rn." #type, T, r, T, r, T, r)       \
  OP2(mul_##type, "mul.rn." #type, T, r, T, r, T, r)       \
  OP2(div_##type, "div.rn." #type, T, r, T, r, T, r)       \
  OP3(fma_##type, "fma.rn." #type, T, r, T, r, T, r, T, r) \
  OP1(sqrt_##type, "sqrt.rn." #type, T, r, T, r)           \
  OP1(rcp_##type, "rcp.rn." #type, T, r, T, r)             \
  OP2(min_##type, "min." #type, T, r, T, r, T, r)          \
  OP2(max_##type, "max." #type, T, r, T, r, T, r)          \
  OP1(neg_##type, "neg." #type, T, r, T, r)                \
  OP1(abs_##type, "abs." #type, T, r, T, r)                \
  COMPARE(lt_##type, "setp.lt." #type, T, r)               \
  COMPARE(eq_##type, "setp.eq." #type, T, r)               \
  COMPARE(ne_##type, "setp.ne." #type, T, r)               \
  COMPARE(geu_##type, "setp.geu." #type, T, r)             \
  COMPARE(neu_##type, "setp.neu." #type, T, r)             \
  COMPARE(nan_##type, "setp.nan." #type, T, r)
FLOAT(f32, float, "f")
FLOAT(f64, double, "d")
OP2(add_rz_f32, "add.rz.f32", float, "f", float, "f", float, "f")
OP2(add_rm_f32, "add.rm.f32", float, "f", float, "f", float, "f")
OP2(mul_rp_f32, "mul.rp.f32", float, "f", float, "f", float, "f")
OP2(mul_ftz_f32, "mul.ftz.f32", float, "f", float, "f", float, "f")
OP2(add_sat_f32, "add.sat.f32", float, "f", float, "f", float, "f")
OP2(max_nan_f32, "max.NaN.f32", float, "f", float, "f", float, "f")
OP1(ex2_f32, "ex2.approx.ftz.f32", float, "f", float, "f")
OP1(lg2_f32, "lg2.approx.f32", float, "f", float, "f")
OP1(sin_f32, "sin.approx.f32", float, "f", float, "f")
OP1(cos_f32, "cos.approx.f32", float, "f", float, "f")
OP1(tanh_f32, "tanh.approx.f32", float, "f", float, "f")
OP1(rsqrt_f32, "rsqrt.approx.f32", float, "f", float, "f")
OP1(rcp_approx_f32, "rcp.approx.ftz.f32", float, "f", float, "f")
OP2(div_full_f32, "div.full.f32", float, "f", float, "f", float, "f")
OP3(fma_bf16x2, "fma.rn.bf16x2", U32, "r", U32, "r", U32, "r", U32, "r")
OP3(fma_f16x2, "fma.rn.f16x2", U32, "r", U32, "r", U32, "r", U32, "r")
OP2(add_f16x2, "add.f16x2", U32, "r", U32, "r", U32, "r")
OP2(mul_f16, "mul.f16", U16, "h", U16, "h", U16, "h")
OP2(max_bf16x2, "max.bf16x2", U32, "r", U32, "r", U32, "r")
OP1(neg_bf16x2, "neg.bf16x2", U32, "r", U32, "r")

OP1(cvt_rni_s32_f32, "cvt.rni.s32.f32", S32, "r", float, "f")
OP1(cvt_rzi_s32_f32, "cvt.rzi.s32.f32", S32, "r", float, "f")
OP1(cvt_rmi_s64_f32, "cvt.rmi.s64.f32", S64, "l", float, "f")
OP1(cvt_rpi_u32_f64, "cvt.rpi.u32.f64", U32, "r", double, "d")
OP1(cvt_rzi_u64_f32, "cvt.rzi.u64.f32", U64, "l", float, "f")
OP1(cvt_rn_f32_s32, "cvt.rn.f32.s32", float, "f", S32, "r")
OP1(cvt_rz_f32_u64, "cvt.rz.f32.u64", float, "f", U64, "l")
OP1(cvt_rp_f32_s32, "cvt.rp.f32.s32", float, "f", S32, "r")
OP1(cvt_rn_f64_u64, "cvt.rn.f64.u64", double, "d", U64, "l")
OP1(cvt_rn_f32_f64, "cvt.rn.f32.f64", float, "f", double, "d")
OP1(cvt_rz_f32_f64, "cvt.rz.f32.f64", float, "f", double, "d")
OP1(cvt_rmi_f32_f32, "cvt.rmi.f32.f32", float, "f", float, "f")
OP1(cvt_f64_f32, "cvt.f64.f32", double, "d", float, "f")
OP1(cvt_s64_s32, "cvt.s64.s32", S64, "l", S32, "r")
OP1(cvt_u64_u32, "cvt.u64.u32", U64, "l", U32, "r")
OP1(cvt_u32_u64, "cvt.u32.u64", U32, "r", U64, "l")
OP1(cvt_s32_s8, "cvt.s32.s8", S32, "r", S32, "r")
OP1(cvt_u32_u8, "cvt.u32.u8", U32, "r", U32, "r")
OP1(cvt_s16_s32, "cvt.s16.s32", S16, "h", S32, "r")
OP1(cvt_sat_u8_s32, "cvt.sat.u8.s32", U32, "r", S32, "r")
OP1(cvt_rn_bf16_f32, "cvt.rn.bf16.f32", U16, "h", float, "f")
OP1(cvt_rn_f16_f32, "cvt.rn.f16.f32", U16, "h", float, "f")
OP1(cvt_f32_f16, "cvt.f32.f16", float, "f", U16, "h")
OP1(cvt_rn_f16_s32, "cvt.rn.f16.s32", U16, "h", S32, "r")
OP2(cvt_rn_bf16x2_f32, "cvt.rn.bf16x2.f32", U32, "r", float, "f", float, "f")
OP2(cvt_rz_bf16x2_f32, "cvt.rz.bf16x2.f32", U32, "r", float, "f", float, "f")
OP2(cvt_rn_f16x2_f32, "cvt.rn.f16x2.f32", U32, "r", float, "f", float, "f")
