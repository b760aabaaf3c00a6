// AVX-512 with VNNI.
#pragma once
#include <immintrin.h>

INLINE __m512i dword(const void* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
INLINE __m512 halves(const char* p) { return _mm512_maskz_cvtph_ps((__mmask16)-1, _mm256_loadu_si256((const __m256i*)p)); }

// The scales (part 0) or minima (1) of a run of inputs of group g of the panel at w.
template <int FORMAT>
INLINE __m512 part(const char* w, i64 g, int part, int run) {
  const char* p = w + scales_at(FORMAT, g, part, run);
  if constexpr (has_blocks(FORMAT)) {
    __m512i whole = _mm512_maskz_cvtepi8_epi32((__mmask16)-1, _mm_loadu_si128((const __m128i*)p));
    if constexpr (has_pairs(FORMAT)) {
      const __m512i low = _mm512_set1_epi32(15);
      if (part) whole = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_and_si512(_mm512_srli_epi32(whole, 4), low));
      else whole = _mm512_and_si512(whole, low);
    }
    return _mm512_mul_ps(halves(w + halves_at(FORMAT, g) + part * 32), _mm512_cvtepi32_ps(whole));
  }
  return part_bytes(FORMAT) == 32 ? halves(p) : _mm512_loadu_ps(p);
}

// Formats that take more to unpack than to multiply. With twelve rows they would take minutes to compile, too.
constexpr bool is_taken_apart(int format) { return format >= Q5; }

// Steps 2s and 2s + 1 of a group's numbers from 0 on; of int8, each 128 more than it is.
template <int FORMAT, int S>
INLINE void two_steps(const char* values, __m512i& a, __m512i& b) {
  if constexpr (bits_of(FORMAT) == 8) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    ask(values + S * 128), ask(values + S * 128 + 64);
    a = _mm512_xor_si512(_mm512_loadu_si512(values + S * 128), flip);
    b = _mm512_xor_si512(_mm512_loadu_si512(values + S * 128 + 64), flip);
    return;
  }
  if constexpr (bits_of(FORMAT) == 2) {
    const __m512i least = _mm512_set1_epi8(3), four = _mm512_loadu_si512(values + S / 2 * 64);
    if constexpr (S % 2 == 0) ask(values + S / 2 * 64);
    a = _mm512_and_si512(_mm512_srli_epi16(four, S % 2 * 4), least);
    b = _mm512_and_si512(_mm512_srli_epi16(four, S % 2 * 4 + 2), least);
    return;
  }
  const __m512i low = _mm512_set1_epi8(15), both = _mm512_loadu_si512(values + S * 64);
  ask(values + S * 64);
  a = _mm512_and_si512(both, low), b = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
  if constexpr (bits_of(FORMAT) > 4) {
    constexpr int ABOVE = bits_of(FORMAT) - 4, AT = 2 * S * ABOVE % 8;  // bits above the four, and where the step's lie
    const char* p = values + 256 + 2 * S * ABOVE / 8 * 64;
    if constexpr (AT == 0) ask(p);
    const __m512i above = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(((1 << ABOVE) - 1) << 4);
    auto from = [&](auto at) INLINE_LAMBDA {
      if constexpr (decltype(at)::value < 4) return _mm512_and_si512(_mm512_slli_epi16(above, 4 - at), mask);
      else return _mm512_and_si512(_mm512_srli_epi16(above, at - 4), mask);
    };
    a = _mm512_or_si512(a, from(Number<AT>())), b = _mm512_or_si512(b, from(Number<AT + ABOVE>()));
  }
}

// All numbers of a group, less ZERO.
template <int FORMAT, int ZERO>
INLINE void all_steps(const char* values, char* out) {
  const __m512i zero = _mm512_set1_epi8(ZERO);
  each<4>([&](auto s) INLINE_LAMBDA {
    __m512i a, b;
    two_steps<FORMAT, decltype(s)::value>(values, a, b);
    _mm512_store_si512(out + s * 128, _mm512_sub_epi8(a, zero));
    _mm512_store_si512(out + s * 128 + 64, _mm512_sub_epi8(b, zero));
  });
}

template <int FORMAT, bool ROUNDED>
struct Dot;

constexpr int FLOAT_ROWS = 12, FLOAT_SUMS = 24;  // that there are registers for

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
  if constexpr (FORMAT == F8) {  // as small_of_e4m3
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(pair + i * 16)));
    const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    return _mm512_maskz_cvtph_ps((__mmask16)-1, half);
  }
  const __m512i both = _mm512_loadu_si512(pair);
  return _mm512_castsi512_ps(i ? _mm512_and_si512(both, _mm512_set1_epi32(0xffff0000)) : _mm512_slli_epi32(both, 16));
}

// Pairs of bfloat16 times pairs of bfloat16, which processors do that are asked for it as they run.
static const bool MULTIPLIES_BF16 = __builtin_cpu_supports("avx512bf16");

template <>
struct Dot<BF16, true> {
  static constexpr int MOST = 12;
  typedef int32_t Pair __attribute__((may_alias));
  template <int M>
  static INLINE void add(__m512 (&sum)[M], const char* w, const uint16_t* x) {
    const __m512i pairs = _mm512_loadu_si512(w);
    each<M>([&](auto m) INLINE_LAMBDA {
      const Pair& pair = *reinterpret_cast<const Pair*>(x + m * GROUP);
      asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum[m]) : "v"(pairs), "m"(pair));
    });
  }
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    const uint16_t* x = rows.halves + row * rows.stride;
    __m512 c[M], second[M];
    each<M>([&](auto m) INLINE_LAMBDA { c[m] = second[m] = _mm512_setzero_ps(); });
    for (i64 left = filled(BF16, k); left > 0; left -= GROUP, x += GROUP * M) {
      const i64 inputs = left < GROUP ? left : GROUP;
      i64 i = 0;
      for (; i + 4 <= inputs; i += 4, w += 128) {
        ask(w), ask(w + 64);
        add<M>(c, w, x + i);
        add<M>(second, w + 64, x + i + 2);
      }
      if (i < inputs) add<M>(c, w, x + i);
    }
    each<M>([&](auto m) INLINE_LAMBDA { _mm512_storeu_ps(out + m * PANEL, _mm512_add_ps(c[m], second[m])); });
  }
};

// Integers times floats: each of the four bytes of an output's dword becomes a float.
template <int FORMAT>
struct Dot<FORMAT, false> {
  static constexpr int MOST = is_taken_apart(FORMAT) ? 6 : 12, RUNS = runs(FORMAT);
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    // By the four bits that u is, u - 8: where there are minima, too, which gain 8 scales. Sums of u would be large, and
    // most of them would be taken off again. So with the 16 and 32 in the middle of five and six bits.
    const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    __m512 c[M];
    each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_setzero_ps(); });
    for (i64 g = 0; g < blocks(k, GROUP); g++) {
      const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
      const float* x = rows.x + row * rows.stride + g * GROUP * M;
      for (int r = 0; r < RUNS; r++) {
        __m512 d[M];
        each<M>([&](auto m) INLINE_LAMBDA { d[m] = _mm512_setzero_ps(); });
        auto add = [&](__m512 a, int input) INLINE_LAMBDA {
          each<M>([&](auto m) INLINE_LAMBDA {
            d[m] = _mm512_fmadd_ps(a, _mm512_set1_ps(x[m * GROUP + input]), d[m]);
            asm("" : "+v"(d[m]));
          });
        };
        auto four = [&](__m512i a, int step) INLINE_LAMBDA {
          each<4>([&](auto j) INLINE_LAMBDA {
            add(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * j), 24)), step * 4 + j);
          });
        };
        if constexpr (bits_of(FORMAT) == 4) {
          for (int s = 0; s < 4; s++) {
            ask(values + s * 64);
            const __m512i a = _mm512_loadu_si512(values + s * 64);
            each<8>([&](auto j) INLINE_LAMBDA {  // half j % 2 of byte j / 2
              add(_mm512_permutexvar_ps(_mm512_srli_epi32(a, 4 * j), table), s * 8 + j % 2 * 4 + j / 2);
            });
          }
        } else {
          alignas(64) char apart[GROUP * PANEL];
          const char* steps = values;
          if constexpr (bits_of(FORMAT) < 8) steps = apart, all_steps<FORMAT, zero_of(FORMAT)>(values, apart);
          for (int s = r * (8 / RUNS); s < (r + 1) * (8 / RUNS); s++) {
            if constexpr (bits_of(FORMAT) == 8) ask(steps + s * 64);
            four(_mm512_loadu_si512(steps + s * 64), s);
          }
        }
        const __m512 scale = part<FORMAT>(w, g, 0, r);
        each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_fmadd_ps(d[m], scale, c[m]); });
        if constexpr (has_minima(FORMAT)) {
          const __m512 minimum = _mm512_fmadd_ps(scale, _mm512_set1_ps(zero_of(FORMAT)), part<FORMAT>(w, g, 1, r));
          const float* sums = rows.sums + row * rows.groups * RUNS + (g * RUNS + r) * M;
          each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sums[m]), c[m]); });
        }
      }
    }
    each<M>([&](auto m) INLINE_LAMBDA { _mm512_storeu_ps(out + m * PANEL, c[m]); });
  }
};

// Integers times integers. VNNI multiplies unsigned by signed: int8 weights get 128 more, and the sums begin at -128
// times the total of a row's run, which is known; so with the 8, 16 and 32 of fewer bits.
template <int FORMAT>
struct Dot<FORMAT, true> {
  static constexpr int MOST = is_taken_apart(FORMAT) ? 6 : 12, RUNS = runs(FORMAT), ADDED = has_minima(FORMAT) ? 0 : zero_of(FORMAT);
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    __m512 c[M];
    each<M>([&](auto m) INLINE_LAMBDA { c[m] = _mm512_setzero_ps(); });
    const int8_t* q = rows.q + row * rows.stride;
    const float *scales = rows.scales + row * rows.groups, *sums = rows.sums + row * rows.groups * RUNS;
    const int32_t* begins = rows.begins + row * rows.groups * RUNS;
    for (i64 g = 0; g < blocks(k, GROUP); g++, q += GROUP * M) {
      const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
      alignas(64) char apart[RUNS == 1 ? 1 : GROUP * PANEL];
      if constexpr (RUNS > 1) all_steps<FORMAT, 0>(values, apart);
      for (int r = 0; r < RUNS; r++) {
        const i64 at = (g * RUNS + r) * M;
        __m512i d[M];
        each<M>([&](auto m) INLINE_LAMBDA { d[m] = ADDED ? _mm512_set1_epi32(begins[at + m]) : _mm512_setzero_si512(); });
        each<4 / RUNS>([&](auto s) INLINE_LAMBDA {
          __m512i a, b;
          if constexpr (RUNS == 1) two_steps<FORMAT, decltype(s)::value>(values, a, b);
          else a = _mm512_load_si512(apart + (r * 2 + s) * 128), b = _mm512_load_si512(apart + (r * 2 + s) * 128 + 64);
          const int8_t* x = q + (r * (4 / RUNS) + s) * 8;
          each<M>([&](auto m) INLINE_LAMBDA { d[m] = _mm512_dpbusd_epi32(d[m], a, dword(x + m * GROUP)); });
          each<M>([&](auto m) INLINE_LAMBDA { d[m] = _mm512_dpbusd_epi32(d[m], b, dword(x + m * GROUP + 4)); });
        });
        const __m512 scale = part<FORMAT>(w, g, 0, r);
        __m512 minimum;
        if constexpr (has_minima(FORMAT)) minimum = part<FORMAT>(w, g, 1, r);
        each<M>([&](auto m) INLINE_LAMBDA {
          c[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(scales[g * M + m])), _mm512_cvtepi32_ps(d[m]), c[m]);
          if constexpr (has_minima(FORMAT)) c[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sums[at + m]), c[m]);
        });
      }
    }
    each<M>([&](auto m) INLINE_LAMBDA { _mm512_storeu_ps(out + m * PANEL, c[m]); });
  }
};
