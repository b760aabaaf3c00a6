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

// Floats: FORMAT's pairs of registers, one input after the other.
template <int M>
struct Sums {
  __m256 low[M], high[M];
  INLINE void clear() {
    each<M>([&](auto m) INLINE_LAMBDA { low[m] = high[m] = _mm256_setzero_ps(); });
  }
  INLINE void add(__m256 a, __m256 b, const float* x) {
    each<M>([&](auto m) INLINE_LAMBDA {
      const __m256 v = _mm256_broadcast_ss(x + m);
      low[m] = _mm256_fmadd_ps(a, v, low[m]);
      high[m] = _mm256_fmadd_ps(b, v, high[m]);
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

template <>
struct Dot<F32, false> {
  static constexpr int MOST = 6;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const float* x = rows.x + row * rows.stride;
    Sums<M> c;
    c.clear();
    for (i64 i = 0; i < k; i++, w += 64) {
      ask(w);
      c.add(_mm256_loadu_ps((const float*)w), _mm256_loadu_ps((const float*)(w + 32)), x + i * M);
    }
    c.give(out);
  }
};

template <>
struct Dot<BF16, false> {
  static constexpr int MOST = 6;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const float* x = rows.x + row * rows.stride;
    const __m256i high = _mm256_set1_epi32(0xffff0000);
    Sums<M> c;
    c.clear();
    for (i64 i = 0; i < k; i += 2, w += 64) {
      ask(w);
      const __m256i a = load256(w), b = load256(w + 32);
      c.add(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), x + i * M);
      c.add(_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high)), x + (i + 1) * M);
    }
    c.give(out);
  }
};

template <>
struct Dot<F16, false> {
  static constexpr int MOST = 6;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const float* x = rows.x + row * rows.stride;
    Sums<M> c;
    c.clear();
    for (i64 i = 0; i < k; i++, w += 32) {
      if (i % 2 == 0) ask(w);
      const Pair a = halves(w);
      c.add(a.low, a.high, x + i * M);
    }
    c.give(out);
  }
};

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
          each<8>([&](auto j) INLINE_LAMBDA { d.add(wide(a, j), wide(b, j), x + (s * 8 + j % 2 * 4 + j / 2) * M); });
        } else {
          auto wide = [&](__m256i v, auto j) INLINE_LAMBDA {
            return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * j), 24));
          };
          each<4>([&](auto j) INLINE_LAMBDA { d.add(wide(a, j), wide(b, j), x + (s * 4 + j) * M); });
        }
      }
      const Pair scale = part<FORMAT>(w);
      each<M>([&](auto m) INLINE_LAMBDA {
        c.low[m] = _mm256_fmadd_ps(d.low[m], scale.low, c.low[m]);
        c.high[m] = _mm256_fmadd_ps(d.high[m], scale.high, c.high[m]);
      });
      if constexpr (has_minima(FORMAT)) {
        const Pair minimum = part<FORMAT>(w + part_bytes(FORMAT));
        c.add(_mm256_fmadd_ps(scale.low, zero, minimum.low), _mm256_fmadd_ps(scale.high, zero, minimum.high), rows.sums + row * rows.groups + g * M);
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
              const int8_t* x = q + (s * 2 * M + m) * 4;
              d[h][m] = _mm256_add_epi16(d[h][m], _mm256_maddubs_epi16(a, dword(x)));
              d[h][m] = _mm256_add_epi16(d[h][m], _mm256_maddubs_epi16(b, dword(x + 4 * M)));
              asm("" : "+x"(d[h][m]));
            });
          });
        } else {
          ask(p + 64);
          each<4>([&](auto h) INLINE_LAMBDA {  // two steps of two halves
            const __m256i a = load256(p + h * 32), size = _mm256_abs_epi8(a);
            each<M>([&](auto m) INLINE_LAMBDA {
              const __m256i x = _mm256_sign_epi8(dword(q + ((s * 2 + h / 2) * M + m) * 4), a);
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
        c.add(minimum.low, minimum.high, sums + g * M);
      }
    }
    c.give(out);
  }
};
