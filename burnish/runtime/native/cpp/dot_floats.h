// Floats times floats, one input after the other: by the Sums and the input() of a processor.
#pragma once
#include "element.h"

// Two sums, which every other input is added to, where there are registers for them, and of 8 bits: there is less to read
// than one sum takes time to add up.
template <int FORMAT>
struct Floats {
  static constexpr int CHAINS = FORMAT == F8 || FLOAT_SUMS >= 2 * FLOAT_ROWS ? 2 : 1, MOST = FLOAT_ROWS < FLOAT_SUMS / CHAINS ? FLOAT_ROWS : FLOAT_SUMS / CHAINS;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    sums<M>(w + scales_bytes(FORMAT), rows.x + row * rows.stride, k, out);
    if constexpr (FORMAT == F8)
      for (int m = 0; m < M; m++)
        for (int o = 0; o < PANEL; o++) out[m * PANEL + o] *= scale_of<F8>(w, 0, o);
  }

  // Without scales.
  template <int M>
  static INLINE void sums(const char* w, const float* x, i64 k, float* out) {
    constexpr int BYTES = input_bytes(FORMAT);
    Sums<M> c, second;
    c.clear();
    if constexpr (CHAINS == 2) second.clear();
    for (i64 left = filled(FORMAT, k); left > 0; left -= GROUP, x += GROUP * M) {
      const i64 inputs = left < GROUP ? left : GROUP;
      i64 i = 0;
      for (; i + 2 <= inputs; i += 2, w += 2 * BYTES) {
        ask(w);
        if (FORMAT == F32) ask(w + 64);
        c.add(input<FORMAT>(w, 0), x + i);
        if constexpr (CHAINS == 2) second.add(input<FORMAT>(w, 1), x + i + 1);
        else c.add(input<FORMAT>(w, 1), x + i + 1);
      }
      if (FORMAT != BF16 && i < inputs) c.add(input<FORMAT>(w, 0), x + i);
    }
    c.give(out);
    if constexpr (CHAINS == 2) {
      float more[M * PANEL];
      second.give(more);
      for (int i = 0; i < M * PANEL; i++) out[i] += more[i];
    }
  }
};

template <>
struct Dot<F32, false> : Floats<F32> {};
template <>
struct Dot<BF16, false> : Floats<BF16> {};
template <>
struct Dot<F16, false> : Floats<F16> {};
template <>
struct Dot<F8, false> : Floats<F8> {};

// The sums of each block's inputs, times its scales.
template <>
struct Dot<F8B, false> {
  static constexpr int MOST = Floats<F8>::MOST;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const float* x = rows.x + row * rows.stride;
    for (int i = 0; i < M * PANEL; i++) out[i] = 0.0f;
    for (i64 at = 0; at < k; at += SCALED) {
      float part[M * PANEL];
      const char* block = scaled_block(w, at);
      Floats<F8>::sums<M>(block + 64, x + at * M, k - at < SCALED ? k - at : SCALED, part);
      for (int m = 0; m < M; m++)
        for (int o = 0; o < PANEL; o++) out[m * PANEL + o] += part[m * PANEL + o] * scale_of<F8>(block, 0, o);
    }
  }
};
