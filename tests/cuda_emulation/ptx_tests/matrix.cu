// Matrix instructions on fragments as they come: [lane][register].
#include <cstdint>

#define MMA(name, shape, type, A, B)                                                                               \
  extern "C" __global__ void name(const std::uint32_t* a, const std::uint32_t* b, const float* c, float* d) {     \
    const int l = threadIdx.x;                                                                                     \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, " A                  \
                 : "=f"(d[4 * l]), "=f"(d[4 * l + 1]), "=f"(d[4 * l + 2]), "=f"(d[4 * l + 3])                      \
                 : "f"(c[4 * l]), "f"(c[4 * l + 1]), "f"(c[4 * l + 2]), "f"(c[4 * l + 3]), B);                     \
  }
#define DEEP "{%8,%9,%10,%11}, {%12,%13}, {%4,%5,%6,%7};"
#define DEEP_INPUTS \
  "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1])
#define FLAT "{%8,%9}, {%10}, {%4,%5,%6,%7};"
#define FLAT_INPUTS "r"(a[2 * l]), "r"(a[2 * l + 1]), "r"(b[l])
MMA(mma_16_bf16, "m16n8k16", "bf16", DEEP, DEEP_INPUTS)
MMA(mma_16_f16, "m16n8k16", "f16", DEEP, DEEP_INPUTS)
MMA(mma_8_bf16, "m16n8k8", "bf16", FLAT, FLAT_INPUTS)
MMA(mma_8_f16, "m16n8k8", "f16", FLAT, FLAT_INPUTS)

// `rows` says which of the 64 rows (8 halves each) of shared memory a lane points to.
#define LDMATRIX(name, kind, count, ...)                                                                     \
  extern "C" __global__ void name(const uint4* data, const int* rows, std::uint32_t* out) {                  \
    __shared__ uint4 cells[64];                                                                              \
    const int l = threadIdx.x;                                                                               \
    cells[l] = data[l];                                                                                      \
    cells[l + 32] = data[l + 32];                                                                            \
    __syncwarp();                                                                                            \
    std::uint32_t r[count];                                                                                  \
    const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(cells + rows[l]));                   \
    asm volatile("ldmatrix.sync.aligned.m8n8." kind : __VA_ARGS__ : "r"(at) : "memory");                     \
    for (int i = 0; i < count; ++i) out[l * count + i] = r[i];                                               \
  }
#define ONE ".shared.b16 {%0}, [%1];"
#define TWO ".shared.b16 {%0,%1}, [%2];"
#define FOUR ".shared.b16 {%0,%1,%2,%3}, [%4];"
LDMATRIX(ldmatrix_1, "x1" ONE, 1, "=r"(r[0]))
LDMATRIX(ldmatrix_2_trans, "x2.trans" TWO, 2, "=r"(r[0]), "=r"(r[1]))
LDMATRIX(ldmatrix_4, "x4" FOUR, 4, "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]))
LDMATRIX(ldmatrix_4_trans, "x4.trans" FOUR, 4, "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]))
