// The kernels by name; kernel.cpp knows which processor runs which.
#pragma once

#include "cpu/attention/kernel.hpp"

namespace apb::cpu {

void attend_amx(const StackedRows& rows, const KeySegment& segment);
void attend_amx_accurate(const StackedRows& rows, const KeySegment& segment);
void attend_plain_f32(const StackedRows& rows, const KeySegment& segment);
void attend_plain_bf16(const StackedRows& rows, const KeySegment& segment);
void attend_avx2_f32(const StackedRows& rows, const KeySegment& segment);
void attend_avx2_bf16(const StackedRows& rows, const KeySegment& segment);
void attend_avx512_f32(const StackedRows& rows, const KeySegment& segment);
/// bf16 slots, float products.
void attend_avx512_bf16_as_float(const StackedRows& rows, const KeySegment& segment);
/// bf16 slots, products of bf16 pairs.
void attend_avx512_bf16(const StackedRows& rows, const KeySegment& segment);

}  // namespace apb::cpu
