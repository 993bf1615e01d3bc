// Loops compiled once per instruction set; the processor decides at program start.
#pragma once

/// Before a function: compiled for AVX-512, for AVX2 and for any x86-64.
#define APB_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
