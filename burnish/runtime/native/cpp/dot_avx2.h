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

// The scales (part 0) or minima (1) of a run of inputs of group g of the panel at w.
template <int FORMAT>
INLINE Pair part(const char* w, i64 g, int part, int run) {
  const char* p = w + scales_at(FORMAT, g, part, run);
  if constexpr (has_blocks(FORMAT)) {
    const Pair half = halves(w + halves_at(FORMAT, g) + part * 32);
    auto whole = [&](const char* from) INLINE_LAMBDA {
      __m256i each = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
      if constexpr (has_pairs(FORMAT)) {
        const __m256i low = _mm256_set1_epi32(15);
        if (part) each = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_and_si256(_mm256_srli_epi32(each, 4), low));
        else each = _mm256_and_si256(each, low);
      }
      return _mm256_cvtepi32_ps(each);
    };
    return {_mm256_mul_ps(half.low, whole(p)), _mm256_mul_ps(half.high, whole(p + 8))};
  }
  if constexpr (part_bytes(FORMAT) == 32) return halves(p);
  return {_mm256_loadu_ps((const float*)p), _mm256_loadu_ps((const float*)(p + 32))};
}

// Steps 2s and 2s + 1 of half the outputs (h) of a group's numbers of 2 to 6 bits, from 0 on.
template <int FORMAT, int S>
INLINE void two_steps(const char* values, int h, __m256i& a, __m256i& b) {
  if constexpr (bits_of(FORMAT) == 2) {
    const __m256i least = _mm256_set1_epi8(3), four = load256(values + S / 2 * 64 + h * 32);
    a = _mm256_and_si256(_mm256_srli_epi16(four, S % 2 * 4), least);
    b = _mm256_and_si256(_mm256_srli_epi16(four, S % 2 * 4 + 2), least);
    return;
  }
  const __m256i low = _mm256_set1_epi8(15), both = load256(values + S * 64 + h * 32);
  a = _mm256_and_si256(both, low), b = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
  if constexpr (bits_of(FORMAT) > 4) {
    constexpr int ABOVE = bits_of(FORMAT) - 4, AT = 2 * S * ABOVE % 8;  // bits above the four, and where the step's lie
    const __m256i above = load256(values + 256 + 2 * S * ABOVE / 8 * 64 + h * 32), mask = _mm256_set1_epi8(((1 << ABOVE) - 1) << 4);
    auto from = [&](auto at) INLINE_LAMBDA {
      if constexpr (decltype(at)::value < 4) return _mm256_and_si256(_mm256_slli_epi16(above, 4 - at), mask);
      else return _mm256_and_si256(_mm256_srli_epi16(above, at - 4), mask);
    };
    a = _mm256_or_si256(a, from(Number<AT>())), b = _mm256_or_si256(b, from(Number<AT + ABOVE>()));
  }
}

// All numbers of a group, less ZERO.
template <int FORMAT, int ZERO>
INLINE void all_steps(const char* values, char* out) {
  const __m256i zero = _mm256_set1_epi8(ZERO);
  each<4>([&](auto s) INLINE_LAMBDA {
    ask(values + s * bits_of(FORMAT) * 16);
    each<2>([&](auto h) INLINE_LAMBDA {
      __m256i a, b;
      two_steps<FORMAT, decltype(s)::value>(values, h, a, b);
      _mm256_store_si256((__m256i*)(out + s * 128 + h * 32), _mm256_sub_epi8(a, zero));
      _mm256_store_si256((__m256i*)(out + s * 128 + 64 + h * 32), _mm256_sub_epi8(b, zero));
    });
  });
}

template <int FORMAT, bool ROUNDED>
struct Dot;

constexpr int FLOAT_ROWS = 6, FLOAT_SUMS = 6;  // that there are registers for

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
  if constexpr (FORMAT == F8) {  // as small_of_e4m3
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(two + i * 16)));
    const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
  }
  const __m256i a = load256(two), b = load256(two + 32), high = _mm256_set1_epi32(0xffff0000);
  if (i) return {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))};
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}

// Integers times floats: each of the four bytes of an output's dword becomes a float.
template <int FORMAT>
struct Dot<FORMAT, false> {
  static constexpr int MOST = 3, RUNS = runs(FORMAT);
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const __m256i low = _mm256_set1_epi32(15);
    // Minima gain so many scales: sums of u would be large, to be taken off again.
    const __m256 zero = _mm256_set1_ps(zero_of(FORMAT));
    Sums<M> c;
    c.clear();
    for (i64 g = 0; g < blocks(k, GROUP); g++) {
      const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
      const float* x = rows.x + row * rows.stride + g * GROUP * M;
      for (int r = 0; r < RUNS; r++) {
        Sums<M> d;
        d.clear();
        auto four = [&](__m256i a, __m256i b, int step) INLINE_LAMBDA {
          auto wide = [&](__m256i v, auto j) INLINE_LAMBDA {
            return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * j), 24));
          };
          each<4>([&](auto j) INLINE_LAMBDA { d.add({wide(a, j), wide(b, j)}, x + step * 4 + j); });
        };
        if constexpr (bits_of(FORMAT) == 4) {
          auto wide = [&](__m256i v, auto j) INLINE_LAMBDA {
            const __m256 u = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v, 4 * j), low));
            return _mm256_sub_ps(u, zero);
          };
          for (int s = 0; s < 4; s++) {
            const char* p = values + s * 64;
            ask(p);
            const __m256i a = load256(p), b = load256(p + 32);
            each<8>([&](auto j) INLINE_LAMBDA { d.add({wide(a, j), wide(b, j)}, x + s * 8 + j % 2 * 4 + j / 2); });
          }
        } else {
          alignas(32) char apart[GROUP * PANEL];
          const char* steps = values;
          if constexpr (bits_of(FORMAT) < 8) steps = apart, all_steps<FORMAT, zero_of(FORMAT)>(values, apart);
          for (int s = r * (8 / RUNS); s < (r + 1) * (8 / RUNS); s++) {
            if constexpr (bits_of(FORMAT) == 8) ask(steps + s * 64);
            four(load256(steps + s * 64), load256(steps + s * 64 + 32), s);
          }
        }
        const Pair scale = part<FORMAT>(w, g, 0, r);
        each<M>([&](auto m) INLINE_LAMBDA {
          c.low[m] = _mm256_fmadd_ps(d.low[m], scale.low, c.low[m]);
          c.high[m] = _mm256_fmadd_ps(d.high[m], scale.high, c.high[m]);
        });
        if constexpr (has_minima(FORMAT)) {
          const Pair minimum = part<FORMAT>(w, g, 1, r);
          c.template add<1>({_mm256_fmadd_ps(scale.low, zero, minimum.low), _mm256_fmadd_ps(scale.high, zero, minimum.high)},
                            rows.sums + row * rows.groups * RUNS + (g * RUNS + r) * M);
        }
      }
    }
    c.give(out);
  }
};

// Integers times integers. Of 2 to 6 bits they are unsigned as they are, and 16 bits hold a whole group's products of
// four (15 * 127 * 2 * 8 = 30,480), and two steps' of five and six (63 * 127 * 2 * 2 = 32,004). Of int8 the sign goes
// over to the row: |w| is unsigned, and pairs fit (128 * 127 * 2).
template <int FORMAT>
struct Dot<FORMAT, true> {
  static constexpr int MOST = 4, RUNS = runs(FORMAT), ADDED = bits_of(FORMAT) < 8 && !has_minima(FORMAT) ? zero_of(FORMAT) : 0;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const __m256i ones = _mm256_set1_epi16(1);
    constexpr bool NARROW = bits_of(FORMAT) == 4;  // sums of 16 bits
    Sums<M> c;
    c.clear();
    const int8_t* q = rows.q + row * rows.stride;
    const float *scales = rows.scales + row * rows.groups, *sums = rows.sums + row * rows.groups * RUNS;
    const int32_t* begins = rows.begins + row * rows.groups * RUNS;
    for (i64 g = 0; g < blocks(k, GROUP); g++, q += GROUP * M) {
      const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
      alignas(32) char apart[RUNS == 1 ? 1 : GROUP * PANEL];
      if constexpr (RUNS > 1) all_steps<FORMAT, 0>(values, apart);
      for (int r = 0; r < RUNS; r++) {
        const i64 at = (g * RUNS + r) * M;
        __m256i d[2][M];
        each<M>([&](auto m) INLINE_LAMBDA { d[0][m] = d[1][m] = _mm256_setzero_si256(); });
        each<4 / RUNS>([&](auto s) INLINE_LAMBDA {
          if constexpr (bits_of(FORMAT) == 8) {
            const char* p = values + s * 128;
            ask(p), ask(p + 64);
            each<4>([&](auto h) INLINE_LAMBDA {  // two steps of two halves
              const __m256i a = load256(p + h * 32), size = _mm256_abs_epi8(a);
              each<M>([&](auto m) INLINE_LAMBDA {
                const __m256i x = _mm256_sign_epi8(dword(q + m * GROUP + s * 8 + h / 2 * 4), a);
                d[h % 2][m] = _mm256_add_epi32(d[h % 2][m], _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones));
                asm("" : "+x"(d[h % 2][m]));
              });
            });
          } else {
            if constexpr (RUNS == 1) ask(values + s * bits_of(FORMAT) * 16);
            each<2>([&](auto h) INLINE_LAMBDA {
              __m256i a, b;
              if constexpr (RUNS == 1) two_steps<FORMAT, decltype(s)::value>(values, h, a, b);
              else a = load256(apart + (r * 2 + s) * 128 + h * 32), b = load256(apart + (r * 2 + s) * 128 + 64 + h * 32);
              each<M>([&](auto m) INLINE_LAMBDA {
                const int8_t* x = q + m * GROUP + (r * (4 / RUNS) + s) * 8;
                const __m256i first = _mm256_maddubs_epi16(a, dword(x)), second = _mm256_maddubs_epi16(b, dword(x + 4));
                if constexpr (NARROW) d[h][m] = _mm256_add_epi16(_mm256_add_epi16(d[h][m], first), second);
                else d[h][m] = _mm256_add_epi32(d[h][m], _mm256_madd_epi16(_mm256_add_epi16(first, second), ones));
                asm("" : "+x"(d[h][m]));
              });
            });
          }
        });
        const Pair scale = part<FORMAT>(w, g, 0, r);
        each<M>([&](auto m) INLINE_LAMBDA {
          auto wide = [&](__m256i v) INLINE_LAMBDA {
            if constexpr (NARROW) v = _mm256_madd_epi16(v, ones);
            if constexpr (ADDED != 0) v = _mm256_add_epi32(v, _mm256_set1_epi32(begins[at + m]));
            return _mm256_cvtepi32_ps(v);
          };
          const __m256 x = _mm256_broadcast_ss(scales + g * M + m);
          c.low[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale.low, x), wide(d[0][m]), c.low[m]);
          c.high[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale.high, x), wide(d[1][m]), c.high[m]);
        });
        if constexpr (has_minima(FORMAT)) {
          const Pair minimum = part<FORMAT>(w, g, 1, r);
          c.template add<1>(minimum, sums + at);
        }
      }
    }
    c.give(out);
  }
};
