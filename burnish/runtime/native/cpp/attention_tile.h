// The two products of attention for a tile of queries and a chunk of keys: scores, and values weighed by them.
#pragma once
#include <utility>

#include "states.h"

constexpr i64 CHUNK = 128;
constexpr i64 CACHE_AHEAD = 2048;  // bytes of a cache that are asked for before they are wanted

// Of many queries QUERIES are multiplied with KEYS registers of keys at a time, as many as there are registers for.
#if defined(__AVX512F__)
constexpr int QUERIES = 8, KEYS = 2, COLUMNS = 4;
#else
constexpr int QUERIES = 4, KEYS = 1, COLUMNS = 1;
#endif
constexpr i64 FEW = 8;  // queries, for which keys are read as they lie

// Queries and what has come of them so far. `rows` of them; memory is there for `filled`, whole tiles of QUERIES.
struct Tile {
  i64 b, head, first, tokens, group, rows, filled;  // row r is token first + r / group, query head head * group + r % group
  i64 key_size, value_size;  // filled up to whole registers
  float* query;              // few: [rows][key]; many: [rows / QUERIES][key][QUERIES]
  float *accumulated, *most, *total, *scores;  // [rows][value], [rows], [rows], [rows][CHUNK]
  float *keys, *widened;                       // many: [key][CHUNK], and in its place later [CHUNK][value]
  bool few() const { return rows <= FEW; }
};

// scores[r][i] = query r . key i for `count` keys, along each key, four of them at a time.
template <int ELEMENT, int R>
static inline void score_few(const Tile& t, i64 row, const typename Elements<ELEMENT>::Type* keys, i64 stride, i64 size, i64 count) {
  const float* q = t.query + row * t.key_size;
  for (i64 i = 0; i < count; i += 4) {
    const i64 last = count - 1;
    const typename Elements<ELEMENT>::Type* k[4];
    each<4>([&](auto n) INLINE_LAMBDA {
      k[n] = keys + (i + n < count ? i + n : last) * stride;
      if (row == 0) __builtin_prefetch(reinterpret_cast<const char*>(k[n]) + CACHE_AHEAD);
    });
    V c[R][4];
    each<R>([&](auto r) INLINE_LAMBDA { each<4>([&](auto n) INLINE_LAMBDA { c[r][n] = V{}; }); });
    i64 d = 0;
    for (; d + LANES <= size; d += LANES) {
      V x[4];
      each<4>([&](auto n) INLINE_LAMBDA { x[n] = wide<ELEMENT>(k[n] + d); });
      each<R>([&](auto r) INLINE_LAMBDA {
        const V y = load(q + r * t.key_size + d);
        each<4>([&](auto n) INLINE_LAMBDA { c[r][n] += x[n] * y; });
      });
    }
    if (d < size) {
      V x[4] = {};
      for (int n = 0; n < 4; n++)
        for (i64 e = d; e < size; e++) x[n][e - d] = widened<ELEMENT>(k[n][e]);
      each<R>([&](auto r) INLINE_LAMBDA {
        const V y = load(q + r * t.key_size + d);
        each<4>([&](auto n) INLINE_LAMBDA { c[r][n] += x[n] * y; });
      });
    }
    each<R>([&](auto r) INLINE_LAMBDA {
      const V4 found = sums(c[r][0], c[r][1], c[r][2], c[r][3]);
      memcpy(t.scores + (row + r) * CHUNK + i, &found, 16);
    });
  }
}

template <int ELEMENT>
static inline void score_few(const Tile& t, const typename Elements<ELEMENT>::Type* keys, i64 stride, i64 size, i64 count) {
  i64 row = 0;
  for (; t.rows - row >= 4; row += 4) score_few<ELEMENT, 4>(t, row, keys, stride, size, count);
  if (t.rows - row == 3) score_few<ELEMENT, 3>(t, row, keys, stride, size, count);
  if (t.rows - row == 2) score_few<ELEMENT, 2>(t, row, keys, stride, size, count);
  if (t.rows - row == 1) score_few<ELEMENT, 1>(t, row, keys, stride, size, count);
}

// Lanes of two registers, of which those that have bit STEP change places with those of the other that do not.
template <int STEP, bool SECOND, size_t... L>
INLINE V exchanged(V a, V b, std::index_sequence<L...>) {
  return __builtin_shufflevector(a, b, (L & STEP ? LANES + L - (SECOND ? 0 : STEP) : L + (SECOND ? STEP : 0))...);
}
template <int STEP>
INLINE void exchange(V* x) {
  constexpr auto lanes = std::make_index_sequence<LANES>();
  each<LANES>([&](auto n) INLINE_LAMBDA {
    if constexpr ((n & STEP) == 0) {
      const V a = x[n], b = x[n + STEP];
      x[n] = exchanged<STEP, false>(a, b, lanes), x[n + STEP] = exchanged<STEP, true>(a, b, lanes);
    }
  });
}
INLINE void turn_over(V (&x)[LANES]) {
  exchange<1>(x), exchange<2>(x);
  if constexpr (LANES > 4) exchange<4>(x);
  if constexpr (LANES > 8) exchange<8>(x);
}

// The same for many queries: keys are turned over first, so that 16 of them are one register.
template <int ELEMENT>
static inline void score_many(const Tile& t, const typename Elements<ELEMENT>::Type* keys, i64 stride, i64 size, i64 count) {
  constexpr i64 WIDTH = KEYS * LANES;
  const i64 filled = padded(count, WIDTH);
  for (i64 i = 0; i < filled; i += LANES) {
    i64 d = 0;
    for (; d + LANES <= size; d += LANES) {
      V x[LANES];
      each<LANES>([&](auto n) INLINE_LAMBDA { x[n] = i + n < count ? wide<ELEMENT>(keys + (i + n) * stride + d) : V{}; });
      turn_over(x);
      each<LANES>([&](auto n) INLINE_LAMBDA { store(t.keys + (d + n) * CHUNK + i, x[n]); });
    }
    for (; d < size; d++) {
      V x = {};
      for (i64 n = 0; n < LANES; n++) x[n] = i + n < count ? widened<ELEMENT>(keys[(i + n) * stride + d]) : 0.0f;
      store(t.keys + d * CHUNK + i, x);
    }
  }
  for (i64 row = 0; row < t.filled; row += QUERIES)
    for (i64 i = 0; i < filled; i += WIDTH) {
      const float* q = t.query + row * t.key_size;
      V c[QUERIES][KEYS];
      each<QUERIES>([&](auto j) INLINE_LAMBDA { each<KEYS>([&](auto n) INLINE_LAMBDA { c[j][n] = V{}; }); });
      for (i64 d = 0; d < size; d++, q += QUERIES) {
        V x[KEYS];
        each<KEYS>([&](auto n) INLINE_LAMBDA { x[n] = load(t.keys + d * CHUNK + i + n * LANES); });
        each<QUERIES>([&](auto j) INLINE_LAMBDA { each<KEYS>([&](auto n) INLINE_LAMBDA { c[j][n] += x[n] * q[j]; }); });
      }
      each<QUERIES>([&](auto j) INLINE_LAMBDA {
        each<KEYS>([&](auto n) INLINE_LAMBDA { store(t.scores + (row + j) * CHUNK + i + n * LANES, c[j][n]); });
      });
    }
}

// accumulated[r] += scores[r] @ values for R rows and N registers of columns.
template <int ELEMENT, int R, int N>
static inline void weigh(const Tile& t, i64 row, i64 d, const typename Elements<ELEMENT>::Type* values, i64 stride, i64 count) {
  float* sums = t.accumulated + row * t.value_size + d;
  const float* s = t.scores + row * CHUNK;
  V c[R][N];
  each<R>([&](auto r) INLINE_LAMBDA { each<N>([&](auto n) INLINE_LAMBDA { c[r][n] = load(sums + r * t.value_size + n * LANES); }); });
  for (i64 i = 0; i < count; i++) {
    const auto* v = values + i * stride + d;
    if (row == 0) __builtin_prefetch(reinterpret_cast<const char*>(v) + CACHE_AHEAD);
    V x[N];
    each<N>([&](auto n) INLINE_LAMBDA { x[n] = wide<ELEMENT>(v + n * LANES); });
    each<R>([&](auto r) INLINE_LAMBDA { each<N>([&](auto n) INLINE_LAMBDA { c[r][n] += x[n] * s[r * CHUNK + i]; }); });
  }
  each<R>([&](auto r) INLINE_LAMBDA { each<N>([&](auto n) INLINE_LAMBDA { store(sums + r * t.value_size + n * LANES, c[r][n]); }); });
}

template <int ELEMENT, int R>
static inline void weigh(const Tile& t, i64 row, const typename Elements<ELEMENT>::Type* values, i64 stride, i64 size, i64 count) {
  i64 d = 0;
  for (; d + COLUMNS * LANES <= size; d += COLUMNS * LANES) weigh<ELEMENT, R, COLUMNS>(t, row, d, values, stride, count);
  for (; d + LANES <= size; d += LANES) weigh<ELEMENT, R, 1>(t, row, d, values, stride, count);
  for (; d < size; d++)
    for (i64 r = row; r < row + R; r++) {
      float c = t.accumulated[r * t.value_size + d];
      for (i64 i = 0; i < count; i++) c += widened<ELEMENT>(values[i * stride + d]) * t.scores[r * CHUNK + i];
      t.accumulated[r * t.value_size + d] = c;
    }
}

template <int ELEMENT>
static inline void weigh(const Tile& t, const typename Elements<ELEMENT>::Type* values, i64 stride, i64 size, i64 count) {
  if constexpr (ELEMENT != FLOAT32)
    if (!t.few()) {  // widened once for all of them
      for (i64 i = 0; i < count; i++) {
        const auto* v = values + i * stride;
        __builtin_prefetch(reinterpret_cast<const char*>(v) + CACHE_AHEAD);
        float* to = t.widened + i * t.value_size;
        i64 d = 0;
        for (; d + LANES <= size; d += LANES) store(to + d, wide<ELEMENT>(v + d));
        for (; d < size; d++) to[d] = widened<ELEMENT>(v[d]);
      }
      return weigh<FLOAT32>(t, t.widened, t.value_size, size, count);
    }
  i64 row = 0;
  for (; t.rows - row >= 4; row += 4) weigh<ELEMENT, 4>(t, row, values, stride, size, count);
  if (t.rows - row == 3) weigh<ELEMENT, 3>(t, row, values, stride, size, count);
  if (t.rows - row == 2) weigh<ELEMENT, 2>(t, row, values, stride, size, count);
  if (t.rows - row == 1) weigh<ELEMENT, 1>(t, row, values, stride, size, count);
}
