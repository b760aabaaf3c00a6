// Elements of caches, which may be narrower than what is computed in.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "reach.h"
#include "vector.h"

enum Element { FLOAT32, BFLOAT16, FLOAT16 };
#define ELEMENTS "float32|bfloat16|float16"
constexpr ElementType ELEMENT_TYPES[] = {{"float32", 4}, {"bfloat16", 2}, {"float16", 2}};

typedef uint16_t Short __attribute__((vector_size(2 * LANES)));

template <int ELEMENT>
struct Elements {
  using Type = uint16_t;
};
template <>
struct Elements<FLOAT32> {
  using Type = float;
};

template <int ELEMENT>
INLINE float widened(typename Elements<ELEMENT>::Type x) {
  if constexpr (ELEMENT == FLOAT32) return x;
  if constexpr (ELEMENT == FLOAT16) {
    Half half;
    memcpy(&half, &x, 2);
    return static_cast<float>(half);
  }
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float wide;
  memcpy(&wide, &bits, 4);
  return wide;
}

template <int ELEMENT>
INLINE typename Elements<ELEMENT>::Type narrowed(float x) {
  if constexpr (ELEMENT == FLOAT32) {
    return x;
  } else if constexpr (ELEMENT == FLOAT16) {
    const Half half = static_cast<Half>(x);
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
  } else {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return static_cast<uint16_t>((bits >> 16) | 64);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

template <int ELEMENT>
INLINE V wide(const typename Elements<ELEMENT>::Type* p) {
  if constexpr (ELEMENT == FLOAT32) {
    return load(p);
  } else {
    Short bits;
    memcpy(&bits, p, sizeof(bits));
    if constexpr (ELEMENT == BFLOAT16) return (V)(__builtin_convertvector(bits, VI) << 16);
#if defined(__AVX512F__)
    return (V)_mm512_maskz_cvtph_ps((__mmask16)-1, (__m256i)bits);
#elif defined(__F16C__)
    return (V)_mm256_cvtph_ps((__m128i)bits);
#elif defined(__aarch64__)
    return vcvt_f32_f16((float16x4_t)bits);
#else
    V x;
    for (int i = 0; i < LANES; i++) x[i] = widened<ELEMENT>(p[i]);
    return x;
#endif
  }
}
