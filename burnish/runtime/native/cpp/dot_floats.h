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
    constexpr int BYTES = input_bytes(FORMAT);
    const char* panel = w;
    w += scales_bytes(FORMAT);
    const float* x = rows.x + row * rows.stride;
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
    if constexpr (FORMAT == F8)
      for (int m = 0; m < M; m++)
        for (int o = 0; o < PANEL; o++) out[m * PANEL + o] *= row_scale<FORMAT>(panel, o);
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
