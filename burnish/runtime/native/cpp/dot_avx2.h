// AVX2 with FMA and F16C: a panel's 16 outputs are two registers.
#pragma once
#include <immintrin.h>

struct Pair {
  __m256 low, high;
};
INLINE __m256i dword(const void* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
INLINE __m256i load256(const char* p) { return _mm256_loadu_si256((const __m256i*)p); }
INLINE Pair halves(const char* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 16)))};
}
template <int FORMAT>
INLINE Pair part(const char* p) {
  if constexpr (part_bytes(FORMAT) == 32) return halves(p);
  return {_mm256_loadu_ps((const float*)p), _mm256_loadu_ps((const float*)(p + 32))};
}

template <int FORMAT, bool ROUNDED>
struct Dot;

constexpr int FLOAT_ROWS = 6;

// Sums of floats: those of each of M rows in a pair of registers.
template <int M>
struct Sums {
  __m256 low[M], high[M];
  INLINE void clear() {
    each<M>([&](auto m) INLINE_LAMBDA { low[m] = high[m] = _mm256_setzero_ps(); });
  }
  template <int APART = GROUP>  // the numbers of two rows
  INLINE void add(Pair a, const float* x) {
    each<M>([&](auto m) INLINE_LAMBDA {
      const __m256 v = _mm256_broadcast_ss(x + m * APART);
      low[m] = _mm256_fmadd_ps(a.low, v, low[m]);
      high[m] = _mm256_fmadd_ps(a.high, v, high[m]);
      asm("" : "+x"(low[m]), "+x"(high[m]));
    });
  }
  INLINE void give(float* out) const {
    each<M>([&](auto m) INLINE_LAMBDA {
      _mm256_storeu_ps(out + m * PANEL, low[m]);
      _mm256_storeu_ps(out + m * PANEL + 8, high[m]);
    });
  }
};

// Input i, which is 0 or 1, of two.
template <int FORMAT>
INLINE Pair input(const char* two, int i) {
  if constexpr (FORMAT == F32) return {_mm256_loadu_ps((const float*)(two + i * 64)), _mm256_loadu_ps((const float*)(two + i * 64 + 32))};
  if constexpr (FORMAT == F16) return halves(two + i * 32);
  const __m256i a = load256(two), b = load256(two + 32), high = _mm256_set1_epi32(0xffff0000);
  if (i) return {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))};
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}

// Integers times floats: each of the four bytes of an output's dword becomes a float.
template <int FORMAT>
struct Dot<FORMAT, false> {
  static constexpr int MOST = 3;
  static constexpr bool FOUR_BITS = FORMAT >= Q4;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const __m256i low = _mm256_set1_epi32(15);
    const __m256 zero = _mm256_set1_ps(8.0f);  // minima gain 8 scales: sums of u would be large, to be taken off again
    Sums<M> c;
    c.clear();
    for (i64 g = 0; g < blocks(k, GROUP); g++, w += group_bytes(FORMAT)) {
      const float* x = rows.x + row * rows.stride + g * GROUP * M;
      Sums<M> d;
      d.clear();
      for (int s = 0; s < (FOUR_BITS ? 4 : 8); s++) {
        const char* p = w + values_at(FORMAT) + s * 64;
        ask(p);
        const __m256i a = load256(p), b = load256(p + 32);
        if constexpr (FOUR_BITS) {
          auto wide = [&](__m256i v, auto j) INLINE_LAMBDA {
            const __m256 u = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v, 4 * j), low));
            return _mm256_sub_ps(u, zero);
          };
          each<8>([&](auto j) INLINE_LAMBDA { d.add({wide(a, j), wide(b, j)}, x + s * 8 + j % 2 * 4 + j / 2); });
        } else {
          auto wide = [&](__m256i v, auto j) INLINE_LAMBDA {
            return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * j), 24));
          };
          each<4>([&](auto j) INLINE_LAMBDA { d.add({wide(a, j), wide(b, j)}, x + s * 4 + j); });
        }
      }
      const Pair scale = part<FORMAT>(w);
      each<M>([&](auto m) INLINE_LAMBDA {
        c.low[m] = _mm256_fmadd_ps(d.low[m], scale.low, c.low[m]);
        c.high[m] = _mm256_fmadd_ps(d.high[m], scale.high, c.high[m]);
      });
      if constexpr (has_minima(FORMAT)) {
        const Pair minimum = part<FORMAT>(w + part_bytes(FORMAT));
        c.template add<1>({_mm256_fmadd_ps(scale.low, zero, minimum.low), _mm256_fmadd_ps(scale.high, zero, minimum.high)},
                          rows.sums + row * rows.groups + g * M);
      }
    }
    c.give(out);
  }
};

// Integers times integers. Four bits are unsigned as they are, and a whole group's products fit in 16 bits
// (15 * 127 * 2 * 8 = 30,480). Of int8 the sign goes over to the row: |w| is unsigned, and pairs fit (128 * 127 * 2).
template <int FORMAT>
struct Dot<FORMAT, true> {
  static constexpr int MOST = 4;
  static constexpr bool FOUR_BITS = FORMAT >= Q4;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    constexpr int ADDED = FOUR_BITS && !has_minima(FORMAT) ? 8 : 0;
    Sums<M> c;
    c.clear();
    const int8_t* q = rows.q + row * rows.stride;
    const float *scales = rows.scales + row * rows.groups, *sums = rows.sums + row * rows.groups;
    const int32_t* totals = rows.totals + row * rows.groups;
    for (i64 g = 0; g < blocks(k, GROUP); g++, w += group_bytes(FORMAT), q += GROUP * M) {
      __m256i d[2][M];  // 16 bits for four, 32 for eight
      each<M>([&](auto m) INLINE_LAMBDA { d[0][m] = d[1][m] = _mm256_setzero_si256(); });
      each<4>([&](auto s) INLINE_LAMBDA {
        const char* p = w + values_at(FORMAT) + s * (FOUR_BITS ? 64 : 128);
        ask(p);
        if constexpr (FOUR_BITS) {
          each<2>([&](auto h) INLINE_LAMBDA {
            const __m256i both = load256(p + h * 32);
            const __m256i a = _mm256_and_si256(both, low), b = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            each<M>([&](auto m) INLINE_LAMBDA {
              const int8_t* x = q + m * GROUP + s * 8;
              d[h][m] = _mm256_add_epi16(d[h][m], _mm256_maddubs_epi16(a, dword(x)));
              d[h][m] = _mm256_add_epi16(d[h][m], _mm256_maddubs_epi16(b, dword(x + 4)));
              asm("" : "+x"(d[h][m]));
            });
          });
        } else {
          ask(p + 64);
          each<4>([&](auto h) INLINE_LAMBDA {  // two steps of two halves
            const __m256i a = load256(p + h * 32), size = _mm256_abs_epi8(a);
            each<M>([&](auto m) INLINE_LAMBDA {
              const __m256i x = _mm256_sign_epi8(dword(q + m * GROUP + s * 8 + h / 2 * 4), a);
              d[h % 2][m] = _mm256_add_epi32(d[h % 2][m], _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones));
              asm("" : "+x"(d[h % 2][m]));
            });
          });
        }
      });
      const Pair scale = part<FORMAT>(w);
      each<M>([&](auto m) INLINE_LAMBDA {
        auto wide = [&](__m256i v) INLINE_LAMBDA {
          if constexpr (FOUR_BITS) v = _mm256_madd_epi16(v, ones);
          if constexpr (ADDED != 0) v = _mm256_sub_epi32(v, _mm256_set1_epi32(ADDED * totals[g * M + m]));
          return _mm256_cvtepi32_ps(v);
        };
        const __m256 x = _mm256_broadcast_ss(scales + g * M + m);
        c.low[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale.low, x), wide(d[0][m]), c.low[m]);
        c.high[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale.high, x), wide(d[1][m]), c.high[m]);
      });
      if constexpr (has_minima(FORMAT)) {
        const Pair minimum = part<FORMAT>(w + part_bytes(FORMAT));
        c.template add<1>(minimum, sums + g * M);
      }
    }
    c.give(out);
  }
};
