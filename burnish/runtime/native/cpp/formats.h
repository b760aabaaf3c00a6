// How weights[N, K] lie in memory: panels of 16 outputs, whose elements stand in the order in which they are multiplied.
//
// In a panel, inputs come one behind the other, each with its 16 outputs: float32 [K][16]; float16 [K][16]; bfloat16
// [K / 2][16][2]; float8_e4m3fn [K][16], behind float32 [16], the scales of outputs, which f8b has in front of each 128
// inputs. Integers come in groups of 32 inputs: 16 scales, then, where a format has them, 16 minima, then the
// numbers in 8 steps of 4 inputs: int8 [8][16][4], or of 4 bits [4][16][4] bytes, whose low half belongs to step 2i and
// whose high half to 2i + 1. Of 5 and 6 bits the low 4 come so, then bytes [1 or 2][16][4] with a bit of each of 8
// steps, or two bits of each of 4, from the lowest on. Of 2 bits bytes [2][16][4] have 4 steps each, from the lowest on.
//
// Element = scale * q, of 4, 5 and 6 bits stored as u = q + 8, 16, 32; with minima scale * u + minimum. Both are half
// floats, of q8f and q4f floats, and of q4k, q5k and q6k int8, of q6k [2][16], each for 16 inputs, times half floats
// [16] (and [16] for the minima) in front of each 256 inputs. Of q2k, bytes [2][16] have a scale in their low halves and
// what the minimum takes off in their high ones. K is filled up with zeros to whole groups, or to whole 256
// inputs, N to whole panels.
#pragma once
#include "abi.h"

enum Format { F32, BF16, F16, F8, F8B, Q8, Q8F, Q4, Q4M, Q4F, Q5, Q5M, Q4K, Q5K, Q6K, Q2K };
#define FORMATS "f32|bf16|f16|f8|f8b|q8|q8f|q4|q4m|q4f|q5|q5m|q4k|q5k|q6k|q2k"
#define EACH_OF_INTEGERS(f) f(Q8) f(Q8F) f(Q4) f(Q4M) f(Q4F) f(Q5) f(Q5M) f(Q4K) f(Q5K) f(Q6K) f(Q2K)

constexpr int PANEL = 16, GROUP = 32, GROUPS_OF_BLOCK = 8, SCALED = 128;  // inputs of f8b that share scales

constexpr bool is_integer(i64 format) { return format >= Q8; }
constexpr bool has_minima(i64 format) {
  return format == Q4M || format == Q4F || format == Q5M || format == Q4K || format == Q5K || format == Q2K;
}
constexpr bool has_blocks(i64 format) { return format >= Q4K; }
constexpr int bits_of(i64 format) {
  return format <= Q8F ? 8 : format == Q5 || format == Q5M || format == Q5K ? 5 : format == Q6K ? 6 : format == Q2K ? 2 : 4;
}
constexpr int runs(i64 format) { return format >= Q6K ? 2 : 1; }          // of inputs in a group, each with its scales
constexpr int zero_of(i64 format) { return 1 << (bits_of(format) - 1); }  // the u that stands in the middle
constexpr bool has_pairs(i64 format) { return format == Q2K; }            // of a scale and a minimum in a byte
constexpr i64 part_bytes(i64 format) {
  return has_pairs(format) ? 16 : has_blocks(format) ? 16 * runs(format) : format == Q8F || format == Q4F ? 64 : 32;
}
constexpr i64 parts(i64 format) { return has_minima(format) ? 2 : 1; }
constexpr i64 values_at(i64 format) { return part_bytes(format) * parts(format); }
constexpr i64 group_bytes(i64 format) { return values_at(format) + 64 * bits_of(format); }
constexpr i64 halves_bytes(i64 format) { return 32 * parts(format); }  // in front of a block
constexpr i64 block_bytes(i64 format) { return halves_bytes(format) + GROUPS_OF_BLOCK * group_bytes(format); }

// Group g of a panel; and the halves of its block, if it has some.
constexpr i64 group_at(i64 format, i64 g) {
  if (!has_blocks(format)) return g * group_bytes(format);
  return g / GROUPS_OF_BLOCK * block_bytes(format) + halves_bytes(format) + g % GROUPS_OF_BLOCK * group_bytes(format);
}
// The scales (part 0) or minima (1) of a run of its inputs: of pairs, both.
constexpr i64 scales_at(i64 format, i64 g, int part, int run) {
  return group_at(format, g) + (has_pairs(format) ? 0 : part * part_bytes(format)) + run * PANEL;
}
constexpr i64 halves_at(i64 format, i64 g) { return g / GROUPS_OF_BLOCK * block_bytes(format); }

// Inputs that a row has with its filling.
constexpr i64 filled(i64 format, i64 k) { return format == BF16 ? padded(k, 2) : is_integer(format) ? padded(k, GROUP) : k; }

constexpr i64 input_bytes(i64 format) { return format == F32 ? 64 : format == F8 || format == F8B ? 16 : 32; }  // of floats
constexpr i64 scales_bytes(i64 format) { return format == F8 ? 64 : 0; }                       // in front of all inputs

constexpr i64 panel_bytes(i64 format, i64 k) {
  if (has_blocks(format)) return blocks(k, GROUP * GROUPS_OF_BLOCK) * block_bytes(format);
  if (is_integer(format)) return blocks(k, GROUP) * group_bytes(format);
  if (format == F8B) return 64 * blocks(k, SCALED) + k * input_bytes(F8B);
  return scales_bytes(format) + filled(format, k) * input_bytes(format);
}
