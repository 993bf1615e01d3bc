// Loops compiled once per instruction set; the processor decides at program start.
#pragma once

/// Before a function: compiled for AVX-512, for AVX2 and for any x86-64. Clang cannot do this for templates, and other
/// processors have no such sets: there a function is compiled once.
#if defined(__x86_64__) && !defined(__clang__)
#define APB_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define APB_VECTORIZED
#endif
