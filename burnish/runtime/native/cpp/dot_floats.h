// Floats times floats, one input after the other: by the Sums and the input() of a processor.
#pragma once

template <int FORMAT>
struct Floats {
  static constexpr int MOST = FLOAT_ROWS;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    constexpr int BYTES = FORMAT == F32 ? 64 : 32;  // of an input
    const float* x = rows.x + row * rows.stride;
    Sums<M> c;
    c.clear();
    for (i64 left = filled(FORMAT, k); left > 0; left -= GROUP, x += GROUP * M) {
      const i64 inputs = left < GROUP ? left : GROUP;
      i64 i = 0;
      for (; i + 2 <= inputs; i += 2, w += 2 * BYTES) {
        ask(w);
        if (FORMAT == F32) ask(w + 64);
        c.template add<0>(input<FORMAT>(w, 0), x + i);
        c.template add<1>(input<FORMAT>(w, 1), x + i + 1);
      }
      if (FORMAT != BF16 && i < inputs) c.template add<0>(input<FORMAT>(w, 0), x + i);
    }
    c.give(out);
  }
};

template <>
struct Dot<F32, false> : Floats<F32> {};
template <>
struct Dot<BF16, false> : Floats<BF16> {};
template <>
struct Dot<F16, false> : Floats<F16> {};
