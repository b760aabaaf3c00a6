// As many floats as a register holds, and functions of them.
#pragma once
#include <cstring>

#include "abi.h"

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

#if defined(__aarch64__)
typedef __fp16 Half;  // g++ has no other before version 13
#else
typedef _Float16 Half;
#endif

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t VI __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float V4 __attribute__((vector_size(16)));

INLINE V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
INLINE void store(float* p, V x) { *reinterpret_cast<Unaligned*>(p) = x; }
INLINE V splat(float x) {
  V all;
  for (int i = 0; i < LANES; i++) all[i] = x;
  return all;
}
INLINE V select(VI mask, V yes, V no) { return mask ? yes : no; }
INLINE V maximum(V a, V b) { return select(a > b, a, b); }
INLINE V minimum(V a, V b) { return select(a < b, a, b); }

// Runs f(0), ..., f(N - 1) with numbers that the compiler knows: arrays indexed by them stay in registers.
template <int I>
struct Number {
  static constexpr int value = I;
  constexpr operator int() const { return I; }
};
template <int N, int I = 0, class F>
INLINE void each(F&& f) {
  if constexpr (I < N) {
    f(Number<I>());
    each<N, I + 1>(f);
  }
}

// The first `count` of them; zeros behind.
INLINE V load_some(const float* p, i64 count) {
  V x = {};
  for (i64 i = 0; i < count; i++) x[i] = p[i];
  return x;
}
INLINE void store_some(float* p, V x, i64 count) {
  for (i64 i = 0; i < count; i++) p[i] = x[i];
}

// Folded over to four, in an order of its own on each processor, and in one on each.
#if defined(__AVX512F__)
typedef float V8 __attribute__((vector_size(32)));
INLINE V8 low(V x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7); }
INLINE V8 high(V x) { return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15); }
#else
typedef V V8;
#endif
#if defined(__AVX2__)
INLINE V4 low4(V8 x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3); }
INLINE V4 high4(V8 x) { return __builtin_shufflevector(x, x, 4, 5, 6, 7); }
#endif

INLINE V4 quarter(V x) {
#if defined(__AVX512F__)
  const V8 half = low(x) + high(x);
  return low4(half) + high4(half);
#elif defined(__AVX2__)
  return low4(x) + high4(x);
#else
  return x;
#endif
}

INLINE float sum(V x) {
  const V4 four = quarter(x);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// The sums of four, each in the same order as `sum` has them.
INLINE V4 sums(V a, V b, V c, V d) {
  const V4 p = quarter(a), q = quarter(b), r = quarter(c), s = quarter(d);
  const V4 pq = __builtin_shufflevector(p, q, 0, 2, 4, 6) + __builtin_shufflevector(p, q, 1, 3, 5, 7);
  const V4 rs = __builtin_shufflevector(r, s, 0, 2, 4, 6) + __builtin_shufflevector(r, s, 1, 3, 5, 7);
  return __builtin_shufflevector(pq, rs, 0, 2, 4, 6) + __builtin_shufflevector(pq, rs, 1, 3, 5, 7);
}

// Of what are numbers.
INLINE float greatest(V x) {
  auto greater = [](auto a, auto b) INLINE_LAMBDA { return a > b ? a : b; };
#if defined(__AVX512F__)
  const V8 half = greater(low(x), high(x));
  const V4 four = greater(low4(half), high4(half));
#elif defined(__AVX2__)
  const V4 four = greater(low4(x), high4(x));
#else
  const V4 four = x;
#endif
  return greater(greater(four[0], four[1]), greater(four[2], four[3]));
}

// exp(x) to 2 units in the last place (Cody and Waite's reduction, a polynomial of degree 6); 0 below -87.3, and
// infinity above 88.7, as expf is.
INLINE V exp(V x) {
  const V ln2_high = splat(0.693359375f), ln2_low = splat(-2.12194440e-4f);
  VI overflow = x > 88.72f, underflow = x < -87.33f, wrong = x != x;
  V clipped = minimum(maximum(x, splat(-87.33f)), splat(88.72f));
  V n = clipped * 1.44269504f;
  n = (n + splat(12582912.0f)) - splat(12582912.0f);  // the nearest whole number: 1.5 * 2^23 leaves no fraction
  V r = clipped - n * ln2_high - n * ln2_low;
  V p = splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(0.5f);
  p = p * r * r + r + splat(1.0f);
  VI k = __builtin_convertvector(n, VI);
  VI half = k >> 1;  // in two steps: 2^128 is no float
  V scaled = p * (V)((half + 127) << 23) * (V)((k - half + 127) << 23);
  scaled = select(overflow, splat(__builtin_inff()), select(underflow, splat(0.0f), scaled));
  return select(wrong, x, scaled);
}

INLINE V sigmoid(V x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

// Near zero by its series: 1 - 2 / (exp(2x) + 1) would lose the small ones.
INLINE V tanh(V x) {
  V square = x * x;
  V p = splat(-5.70498872745e-3f);
  p = p * square + splat(2.06390887954e-2f);
  p = p * square + splat(-5.37397155531e-2f);
  p = p * square + splat(1.33314422036e-1f);
  p = p * square + splat(-3.33332819422e-1f);
  V near = p * square * x + x;
  V size = (V)((VI)x & 0x7fffffff);
  V far = splat(1.0f) - splat(2.0f) / (exp(size + size) + splat(1.0f));
  far = (V)((VI)far | ((VI)x & (VI)(VI{} + (int32_t)0x80000000)));
  return select(x != x, x, select(size < 0.625f, near, far));
}

// erf(x) to 3 units in the last place: x times a polynomial of x^2 near zero, 1 - exp(polynomial) elsewhere, both fitted
// at Chebyshev's nodes.
INLINE V erf(V x) {
  const V size = (V)((VI)x & 0x7fffffff), square = x * x;
  V p = splat(8.287424445e-5f);
  p = p * square + splat(-8.123467577e-4f);
  p = p * square + splat(5.199376807e-3f);
  p = p * square + splat(-2.685875332e-2f);
  p = p * square + splat(1.128368441e-1f);
  p = p * square + splat(-3.761263306e-1f);
  p = p * square + splat(1.283791666e-1f);
  const V near = p * x + x, t = minimum(size, splat(4.0f));  // above which it is 1
  V q = splat(-1.382518628e-5f);
  q = q * t + splat(3.269185022e-4f);
  q = q * t + splat(-3.507537601e-3f);
  q = q * t + splat(2.291025588e-2f);
  q = q * t + splat(-1.040021885e-1f);
  q = q * t + splat(-6.381551753e-1f);
  q = q * t + splat(-1.266151797e-1f);
  q = q * t + splat(-5.484413197e-4f);
  V far = splat(1.0f) - exp(q - t);
  far = (V)((VI)far | ((VI)x & (VI)(VI{} + (int32_t)0x80000000)));
  return select(x != x, x, select(size < 0.93f, near, far));
}

enum Activation { NONE, SILU, GELU, GELU_TANH, RELU, SIGMOID };
#define ACTIVATIONS "none|silu|gelu|gelu_tanh|relu|sigmoid"

INLINE V activated(V x, i64 activation) {
  switch (activation) {
    case SILU: return x * sigmoid(x);
    case GELU: return splat(0.5f) * x * (splat(1.0f) + erf(x * 0.70710678118654752f));
    case GELU_TANH: {
      V inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
      return x * sigmoid(inner + inner);  // 0.5 * (1 + tanh(inner)) is sigmoid(2 * inner)
    }
    case RELU: return select(x != x, x, maximum(x, splat(0.0f)));
    case SIGMOID: return sigmoid(x);
    default: return x;
  }
}
