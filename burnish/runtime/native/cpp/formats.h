// How weights[N, K] lie in memory: panels of 16 outputs, whose elements stand in the order in which they are multiplied.
//
// In a panel, inputs come one behind the other, each with its 16 outputs: float32 [K][16]; float16 [K][16]; bfloat16
// [K / 2][16][2]. Integers come in groups of 32 inputs: 16 scales, then, where a format has them, 16 minima, then
// int8 [8 steps][16][4], or of 4 bits [4][16][4] bytes, whose low half belongs to step 2i and whose high half to 2i + 1.
// Element = scale * q for int8, scale * (u - 8) for q4, and scale * u + minimum for q4m and q4f. The parts are half
// floats, but floats for q8f and q4f. K is filled up with zeros to whole groups, N to whole panels.
#pragma once
#include "abi.h"

enum Format { F32, BF16, F16, Q8, Q8F, Q4, Q4M, Q4F };
#define FORMATS "f32|bf16|f16|q8|q8f|q4|q4m|q4f"

constexpr int PANEL = 16, GROUP = 32;

constexpr bool is_integer(i64 format) { return format >= Q8; }
constexpr bool has_minima(i64 format) { return format == Q4M || format == Q4F; }
constexpr i64 part_bytes(i64 format) { return format == Q8F || format == Q4F ? 64 : 32; }
constexpr i64 values_at(i64 format) { return part_bytes(format) * (has_minima(format) ? 2 : 1); }
constexpr i64 group_bytes(i64 format) { return values_at(format) + (format <= Q8F ? 512 : 256); }

// Inputs that a row has with its filling.
constexpr i64 filled(i64 format, i64 k) { return format == BF16 ? padded(k, 2) : is_integer(format) ? padded(k, GROUP) : k; }

constexpr i64 panel_bytes(i64 format, i64 k) {
  return format == F32 ? k * 64 : format <= F16 ? filled(format, k) * 32 : blocks(k, GROUP) * group_bytes(format);
}
