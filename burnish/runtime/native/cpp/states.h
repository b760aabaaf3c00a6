// Elements of caches, which may be narrower than what is computed in, or codes that have scales.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "reach.h"
#include "vector.h"

enum Element { FLOAT32, BFLOAT16, FLOAT16, INT8, FP8 };  // fp8: the bits of a float8_e4m3fn, as bytes
#define ELEMENTS "float32|bfloat16|float16"
#define ELEMENTS_OR_CODES ELEMENTS "|int8|uint8"
constexpr ElementType ELEMENT_TYPES[] = {{"float32", 4}, {"bfloat16", 2}, {"float16", 2}, {"int8", 1}, {"uint8", 1}};
constexpr bool is_code(i64 element) { return element >= INT8; }

typedef uint16_t Short __attribute__((vector_size(2 * LANES)));
typedef int8_t Signed __attribute__((vector_size(LANES)));
typedef uint8_t Byte __attribute__((vector_size(LANES)));

template <int ELEMENT>
struct Elements {
  using Type = uint16_t;
};
template <>
struct Elements<FLOAT32> {
  using Type = float;
};
template <>
struct Elements<INT8> {
  using Type = int8_t;
};
template <>
struct Elements<FP8> {
  using Type = uint8_t;
};

// A half float that is 2^-8 of a float8_e4m3fn: its exponent has one bit more, and begins 8 lower. NaN, whose scale is
// NaN, is a number.
constexpr float FROM_HALF = 256.0f;
template <class T>
INLINE T half_of_fp8(T x) { return ((x & 0x80) << 8) | ((x & 0x7f) << 7); }

template <int ELEMENT>
INLINE float widened(typename Elements<ELEMENT>::Type x) {
  if constexpr (ELEMENT == FLOAT32 || ELEMENT == INT8) return x;
  if constexpr (ELEMENT == FP8) return widened<FLOAT16>(half_of_fp8<uint16_t>(x)) * FROM_HALF;
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
  } else if constexpr (ELEMENT == INT8) {  // by name: compilers take bytes apart one by one
#if defined(__AVX512F__)
    return (V)_mm512_cvtepi32_ps(_mm512_maskz_cvtepi8_epi32((__mmask16)-1, _mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return (V)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#elif defined(__aarch64__)
    uint32_t codes;
    memcpy(&codes, p, sizeof(codes));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(codes))))));
#else
    Signed codes;
    memcpy(&codes, p, sizeof(codes));
    return __builtin_convertvector(__builtin_convertvector(codes, VI), V);
#endif
  } else if constexpr (ELEMENT == FP8) {
#if defined(__AVX512F__)
    const Short codes = (Short)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
    const Short codes = (Short)_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i*)p));
#else
    Byte bytes;
    memcpy(&bytes, p, sizeof(bytes));
    const Short codes = __builtin_convertvector(bytes, Short);
#endif
    const Short halves = half_of_fp8(codes);
    return wide<FLOAT16>(reinterpret_cast<const uint16_t*>(&halves)) * FROM_HALF;
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
