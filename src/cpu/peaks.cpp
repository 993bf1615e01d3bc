#include "cpu/peaks.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/vectorize.hpp"
#include "error.hpp"

// Vectors are passed between inlined functions only.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace apb::cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int samples = 5;  // the best counts
constexpr double seconds_a_sample = 0.1;

/// A loop of operations that need nothing but registers.
struct Loop {
  const char* name;
  double flops_a_step;
  float (*run)(std::int64_t steps);  // the result keeps the compiler from leaving it out
};

/// Sums at a time, so that none waits for the one before: as many as the instruction set's registers hold.
constexpr int chains_in_32_registers = 24;
constexpr int chains_in_16_registers = 12;

/// Vectors of `Floats` multiplied and added; contracted to one instruction where the instruction set has it.
template <typename Floats, int chains>
[[gnu::always_inline]] inline float multiply_add(std::int64_t steps) {
  Floats sums[chains];
  const volatile float numbers[] = {0.999F, 0.001F};  // unknown to the compiler
  const Floats factor = Floats{} + numbers[0];
  const Floats addend = Floats{} + numbers[1];
#pragma GCC unroll 32
  for (int chain = 0; chain < chains; ++chain) sums[chain] = addend * static_cast<float>(chain);
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32  // so that the sums stay in registers
    for (Floats& sum : sums) sum = sum * factor + addend;
  }
  Floats total{};
#pragma GCC unroll 32
  for (const Floats& sum : sums) total += sum;
  return total[0];
}

using Floats16 = float __attribute__((vector_size(64)));
using Floats8 = float __attribute__((vector_size(32)));
using Floats4 = float __attribute__((vector_size(16)));

float run_plain(std::int64_t steps) { return multiply_add<Floats4, chains_in_16_registers>(steps); }

#if defined(__x86_64__)

__attribute__((target("arch=x86-64-v4"))) float run_avx512(std::int64_t steps) {
  return multiply_add<Floats16, chains_in_32_registers>(steps);
}
__attribute__((target("arch=x86-64-v3"))) float run_avx2(std::int64_t steps) {
  return multiply_add<Floats8, chains_in_16_registers>(steps);
}

__attribute__((target("arch=x86-64-v4,avx512bf16"))) float run_avx512_bf16(std::int64_t steps) {
  __m512 sums[chains_in_32_registers];
#pragma GCC unroll 32
  for (int chain = 0; chain < chains_in_32_registers; ++chain) {  // different, or the compiler would keep one
    sums[chain] = _mm512_set1_ps(static_cast<float>(chain));
  }
  __m512i ones = _mm512_set1_epi16(0x3F80);
  asm volatile("" : "+v"(ones));
  const auto factor = reinterpret_cast<__m512bh>(ones);
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, factor, factor);
  }
  __m512 total = _mm512_setzero_ps();
#pragma GCC unroll 32
  for (const __m512& sum : sums) total += sum;
  return total[0];
}

/// The instruction's 64 bytes: palette 1, and eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileShapes tile_shapes{};

/// Four tiles of sums from two of rows and two of columns, as a matrix product keeps them.
__attribute__((target("amx-tile,amx-bf16"))) float run_amx(std::int64_t steps) {
  _tile_loadconfig(&tile_shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (std::int64_t step = 0; step < steps; ++step) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 0.0F;
}

/// Whether the processor has AMX for bf16 and Linux lets this process use it.
bool may_use_amx() {
  unsigned a = 7;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (!__builtin_cpu_supports("avx512f")) return false;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  constexpr unsigned bf16_and_tiles = 1U << 22U | 1U << 24U;
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;
  return (d & bf16_and_tiles) == bf16_and_tiles && ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

Loop widest_loop(DataType type) {
  if (type == DataType::bf16 && may_use_amx()) return {"AMX bf16", 4 * 2.0 * 16 * 16 * 32, run_amx};
  if (type == DataType::bf16 && __builtin_cpu_supports("avx512bf16")) {
    return {"AVX-512 bf16", chains_in_32_registers * 2.0 * 32, run_avx512_bf16};
  }
  if (__builtin_cpu_supports("avx512f")) return {"AVX-512", chains_in_32_registers * 2.0 * 16, run_avx512};
  if (__builtin_cpu_supports("avx2")) return {"AVX2", chains_in_16_registers * 2.0 * 8, run_avx2};
  return {"SSE", chains_in_16_registers * 2.0 * 4, run_plain};
}

/// Cycles a second, by products that wait for each other: three cycles each on all x86 processors of today.
double measure_clock() {
  constexpr int unrolled = 16;
  constexpr std::int64_t steps = 200'000;
  const auto start = Clock::now();
  std::uint64_t value = 3;
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < unrolled; ++i) asm volatile("imul %0, %0" : "+r"(value));
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return 3.0 * unrolled * steps / seconds;
}

#else

Loop widest_loop(DataType /*type*/) { return {"vectors", chains_in_16_registers * 2.0 * 4, run_plain}; }
double measure_clock() { return 0.0; }

#endif

/// Sums of 64-bit numbers; with as many loads under way as the compiler's unrolling gives.
APB_VECTORIZED std::uint64_t read_all(const std::uint64_t* data, std::int64_t count) {
  std::uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += data[i];
  return sum;
}

/// Seconds until all threads have done their share of `work`, the best of some.
double best_seconds(int threads, const std::function<void(int thread)>& work) {
  double best = 0.0;
  for (int sample = 0; sample < samples; ++sample) {
    const auto start = Clock::now();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) work(thread);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = sample == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

double measure_flops(int threads, const Loop& loop) {
  const auto seconds_for = [&](std::int64_t steps) {
    return best_seconds(threads, [&](int /*thread*/) { loop.run(steps); });
  };
  constexpr std::int64_t few = 100'000;
  const auto steps = static_cast<std::int64_t>(static_cast<double>(few) * seconds_a_sample / seconds_for(few)) + 1;
  return threads * static_cast<double>(steps) * loop.flops_a_step / seconds_for(steps);
}

double measure_reading(int threads, std::size_t bytes) {
  const auto share = static_cast<std::int64_t>(bytes / sizeof(std::uint64_t)) / threads;
  if (share == 0) return 0.0;
  const auto count = static_cast<std::size_t>(share * threads);
  const std::unique_ptr<std::uint64_t[]> data(new (std::nothrow) std::uint64_t[count]);
  if (!data) fail("out of memory: {:.1f} GiB to measure the reading of memory", static_cast<double>(bytes) / 0x1p30);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {  // each thread's pages near to it
    std::fill_n(data.get() + thread * share, share, static_cast<std::uint64_t>(thread) + 1);
  }
  const double seconds = best_seconds(threads, [&](int thread) {
    const std::uint64_t sum = read_all(data.get() + thread * share, share);
    asm volatile("" : : "r"(sum));  // or it might be left out
  });
  return static_cast<double>(count * sizeof(std::uint64_t)) / seconds;
}

}  // namespace

Peaks measure_peaks(int threads, DataType type, std::size_t bytes) {
  const Loop loop = widest_loop(type);
  Peaks peaks{.instructions = loop.name};
  peaks.flops_per_second = measure_flops(threads, loop);
  peaks.clock_hertz = measure_clock();
  peaks.bytes_per_second = measure_reading(threads, bytes);
  return peaks;
}

}  // namespace apb::cpu
