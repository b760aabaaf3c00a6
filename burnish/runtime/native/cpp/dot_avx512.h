// AVX-512 with VNNI.
#pragma once
#include <immintrin.h>

INLINE __m512i dword(const void* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
INLINE __m512 halves(const char* p) { return _mm512_maskz_cvtph_ps((__mmask16)-1, _mm256_loadu_si256((const __m256i*)p)); }
template <int FORMAT>
INLINE __m512 part(const char* p) {
  return part_bytes(FORMAT) == 32 ? halves(p) : _mm512_loadu_ps(p);
}

template <int FORMAT, bool ROUNDED>
struct Dot;

constexpr int FLOAT_ROWS = 12;

// Sums of floats: those of each of M rows in a register.
template <int M>
struct Sums {
  __m512 sum[M];
  INLINE void clear() {
    each<M>([&](auto m) INLINE_LAMBDA { sum[m] = _mm512_setzero_ps(); });
  }
  INLINE void add(__m512 a, const float* x) {
    each<M>([&](auto m) INLINE_LAMBDA {
      sum[m] = _mm512_fmadd_ps(a, _mm512_set1_ps(x[m * GROUP]), sum[m]);
      asm("" : "+v"(sum[m]));
    });
  }
  INLINE void give(float* out) const {
    each<M>([&](auto m) INLINE_LAMBDA { _mm512_storeu_ps(out + m * PANEL, sum[m]); });
  }
};

// Input i, which is 0 or 1, of a pair.
template <int FORMAT>
INLINE __m512 input(const char* pair, int i) {
  if constexpr (FORMAT == F32) return _mm512_loadu_ps(pair + i * 64);
  if constexpr (FORMAT == F16) return halves(pair + i * 32);
  const __m512i both = _mm512_loadu_si512(pair);
  return _mm512_castsi512_ps(i ? _mm512_and_si512(both, _mm512_set1_epi32(0xffff0000)) : _mm512_slli_epi32(both, 16));
}

// Integers times floats: each of the four bytes of an output's dword becomes a float.
template <int FORMAT>
struct Dot<FORMAT, false> {
  static constexpr int MOST = 12;
  static constexpr bool FOUR_BITS = FORMAT >= Q4;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    // By the four bits that u is, u - 8: where there are minima, too, which gain 8 scales. Sums of u would be large, and
    // most of them would be taken off again.
    const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    __m512 c[M];
    each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_setzero_ps(); });
    for (i64 g = 0; g < blocks(k, GROUP); g++, w += group_bytes(FORMAT)) {
      const float* x = rows.x + row * rows.stride + g * GROUP * M;
      __m512 d[M];
      each<M>([&](auto m) INLINE_LAMBDA { d[m] = _mm512_setzero_ps(); });
      auto add = [&](__m512 a, int input) INLINE_LAMBDA {
        each<M>([&](auto m) INLINE_LAMBDA {
          d[m] = _mm512_fmadd_ps(a, _mm512_set1_ps(x[m * GROUP + input]), d[m]);
          asm("" : "+v"(d[m]));
        });
      };
      for (int s = 0; s < (FOUR_BITS ? 4 : 8); s++) {
        const char* p = w + values_at(FORMAT) + s * 64;
        ask(p);
        const __m512i a = _mm512_loadu_si512(p);
        if constexpr (FOUR_BITS) {
          each<8>([&](auto j) INLINE_LAMBDA {  // half j % 2 of byte j / 2
            add(_mm512_permutexvar_ps(_mm512_srli_epi32(a, 4 * j), table), s * 8 + j % 2 * 4 + j / 2);
          });
        } else {
          each<4>([&](auto j) INLINE_LAMBDA {
            add(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * j), 24)), s * 4 + j);
          });
        }
      }
      const __m512 scale = part<FORMAT>(w);
      each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_fmadd_ps(d[m], scale, c[m]); });
      if constexpr (has_minima(FORMAT)) {
        const __m512 minimum = _mm512_fmadd_ps(scale, _mm512_set1_ps(8.0f), part<FORMAT>(w + part_bytes(FORMAT)));
        each<M>([&](auto m) INLINE_LAMBDA {
          c[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(rows.sums[row * rows.groups + g * M + m]), c[m]);
        });
      }
    }
    each<M>([&](auto m) INLINE_LAMBDA { _mm512_storeu_ps(out + m * PANEL, c[m]); });
  }
};

// Integers times integers. VNNI multiplies unsigned by signed: int8 weights get 128 more, and the sums begin at -128
// times the total of a row's group, which is known; so with the 8 of four bits.
template <int FORMAT>
struct Dot<FORMAT, true> {
  static constexpr int MOST = 12;
  static constexpr bool FOUR_BITS = FORMAT >= Q4;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const __m512i flip = _mm512_set1_epi8((char)0x80), low = _mm512_set1_epi8(15);
    __m512 c[M];
    each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_setzero_ps(); });
    const int8_t* q = rows.q + row * rows.stride;
    const float *scales = rows.scales + row * rows.groups, *sums = rows.sums + row * rows.groups;
    const int32_t* totals = rows.totals + row * rows.groups;
    constexpr int ADDED = has_minima(FORMAT) ? 0 : FOUR_BITS ? 8 : 128;
    for (i64 g = 0; g < blocks(k, GROUP); g++, w += group_bytes(FORMAT), q += GROUP * M) {
      __m512i d[M];
      each<M>([&](auto m) INLINE_LAMBDA {
        d[m] = ADDED ? _mm512_set1_epi32(-ADDED * totals[g * M + m]) : _mm512_setzero_si512();
      });
      each<4>([&](auto s) INLINE_LAMBDA {
        __m512i a, b;
        const char* p = w + values_at(FORMAT) + s * (FOUR_BITS ? 64 : 128);
        ask(p);
        if constexpr (FOUR_BITS) {
          const __m512i both = _mm512_loadu_si512(p);
          a = _mm512_and_si512(both, low), b = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        } else {
          ask(p + 64);
          a = _mm512_xor_si512(_mm512_loadu_si512(p), flip), b = _mm512_xor_si512(_mm512_loadu_si512(p + 64), flip);
        }
        each<M>([&](auto m) INLINE_LAMBDA {
          d[m] = _mm512_dpbusd_epi32(d[m], a, dword(q + m * GROUP + s * 8));
        });
        each<M>([&](auto m) INLINE_LAMBDA {
          d[m] = _mm512_dpbusd_epi32(d[m], b, dword(q + m * GROUP + s * 8 + 4));
        });
      });
      const __m512 scale = part<FORMAT>(w);
      __m512 minimum;
      if constexpr (has_minima(FORMAT)) minimum = part<FORMAT>(w + part_bytes(FORMAT));
      each<M>([&](auto m) INLINE_LAMBDA {
        c[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(scales[g * M + m])), _mm512_cvtepi32_ps(d[m]), c[m]);
        if constexpr (has_minima(FORMAT)) c[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sums[g * M + m]), c[m]);
      });
    }
    each<M>([&](auto m) INLINE_LAMBDA { _mm512_storeu_ps(out + m * PANEL, c[m]); });
  }
};
