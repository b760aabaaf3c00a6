// Rows of activations as products read them: floats, bfloat16, or int8 in groups of 32 with a scale and the sum of each.
#pragma once
#include <cmath>

#include "formats.h"
#include "reach.h"
#include "vector.h"

// How many rows are multiplied together: `most`; of what is left, so many as there are, or room for `most` of them where
// they are `least` or more.
struct Tiling {
  i64 most, least;
  INLINE i64 tile(i64 left) const { return left < least ? left : most; }
};

// How a product reads rows: rounded or as floats, and what it adds to a weight to store it, as far as it knows of that.
struct Reading {
  Tiling tiling;
  bool rounded;
  int32_t added;
};

#if defined(__AMX_INT8__)
constexpr i64 TILE = 16;  // rows that are together at most
#else
constexpr i64 TILE = 12;
#endif

// Rows stand in tiles, those that are multiplied together: in a tile of M rows, what all of them have for one group of
// inputs lies side by side, so that a product reads one stretch of memory from its begin to its end.
struct Rows {
  i64 stride, groups;     // stride: inputs of a row with its filling
  const float* x;         // tile: [groups][M][GROUP]; row r's tile begins at r * stride
  const uint16_t* halves; // tile: [groups][M][GROUP], of bfloat16; null where products take no such
  const int8_t* q;        // tile: [groups][M][GROUP], where x is about scale * q; null where products take floats
  const float* scales;    // tile: [groups][M]
  const float* sums;      // tile: [groups * runs][M]: of the inputs of a run, those that share a weight's scale
  const int32_t* begins;  // tile: [groups * runs][M]: what sums of products with q begin at, for what weights have too much
};

enum Norm { NO_NORM, RMS, LAYER };
#define NORMS "none|rms|layer"

struct Normed {
  i64 norm;
  double eps;
  const float* weight;  // [k] or null
  const float* bias;
};

INLINE float mean_square(const float* x, i64 k) {
  V total = {};
  i64 i = 0;
  for (; i + LANES <= k; i += LANES) {
    V part = load(x + i);
    total += part * part;
  }
  if (i < k) {
    V part = load_some(x + i, k - i);
    total += part * part;
  }
  return sum(total) / static_cast<float>(k);
}

INLINE float mean(const float* x, i64 k) {
  V total = {};
  i64 i = 0;
  for (; i + LANES <= k; i += LANES) total += load(x + i);
  if (i < k) total += load_some(x + i, k - i);
  return sum(total) / static_cast<float>(k);
}

// y = norm(x) over k elements. x and y may be one.
static inline void normalize(const Normed& n, const float* x, float* y, i64 k) {
  if (n.norm == NO_NORM) {
    if (x != y) memcpy(y, x, k * sizeof(float));
    return;
  }
  float middle = 0.0f, scale;
  if (n.norm == RMS) {
    scale = 1.0f / std::sqrt(mean_square(x, k) + static_cast<float>(n.eps));
  } else {
    middle = mean(x, k);
    V total = {};
    i64 i = 0;
    for (; i + LANES <= k; i += LANES) {
      V part = load(x + i) - middle;
      total += part * part;
    }
    float rest = 0.0f;
    for (; i < k; i++) rest += (x[i] - middle) * (x[i] - middle);
    scale = 1.0f / std::sqrt((sum(total) + rest) / static_cast<float>(k) + static_cast<float>(n.eps));
  }
  i64 i = 0;
  for (; i + LANES <= k; i += LANES) {
    V part = (load(x + i) - middle) * scale;
    if (n.weight) part *= load(n.weight + i);
    if (n.bias) part += load(n.bias + i);
    store(y + i, part);
  }
  for (; i < k; i++) {
    float part = (x[i] - middle) * scale;
    if (n.weight) part *= n.weight[i];
    if (n.bias) part += n.bias[i];
    y[i] = part;
  }
}

// One group as integers: their scale, greatest / 127, is given back; of each of its runs the total.
template <int RUNS>
INLINE float round_group(const float* x, int8_t* q, int32_t (&totals)[2]) {
  constexpr int PARTS = GROUP / LANES;
  typedef int8_t Bytes __attribute__((vector_size(LANES)));
  V size = {}, strange = {};
  each<PARTS>([&](auto p) INLINE_LAMBDA {
    const V part = load(x + p * LANES);
    size = maximum((V)((VI)part & 0x7fffffff), size);
    strange += part - part;
  });
  const float most = greatest(size), inverse = most > 0.0f ? 127.0f / most : 0.0f;
  const V magic = splat(12582912.0f);  // 1.5 * 2^23: what is added to it has its nearest whole number in the low bits
  VI all[RUNS] = {};
  each<PARTS>([&](auto p) INLINE_LAMBDA {
    const VI whole = (VI)(load(x + p * LANES) * inverse + magic) - (VI)magic;
    const Bytes bytes = __builtin_convertvector(whole, Bytes);
    memcpy(q + p * LANES, &bytes, LANES);
    all[p * RUNS / PARTS] += whole << 24 >> 24;  // that byte: of what is no number, too, sums that are small
  });
  for (int r = 0; r < RUNS; r++) totals[r] = static_cast<int32_t>(sum(__builtin_convertvector(all[r], V)));  // exact
  return most / 127.0f + sum(strange);  // what is no number, or too large to be one, stays so
}

// One group as bfloat16, the nearest, halves to even.
INLINE void narrow_group(const float* x, uint16_t* to) {
  typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
  each<GROUP / LANES>([&](auto p) INLINE_LAMBDA {
    const V part = load(x + p * LANES);
    const VI bits = (VI)part, nearest = bits + 0x7fff + (bits >> 16 & 1), none = bits | 0x400000;
    const Shorts shorts = __builtin_convertvector(((VI)(part != part) & (none ^ nearest) ^ nearest) >> 16, Shorts);
    memcpy(to + p * LANES, &shorts, sizeof(shorts));
  });
}

// What is taken of a thread's scratch for `rows` rows of k, and for a Rows in front that says where they are.
static inline i64 rows_scratch(i64 format, i64 rows, i64 k) {
  const i64 stride = padded(k, GROUP), groups = stride / GROUP, room = padded(rows, TILE);
  return padded(sizeof(Rows), 64) + padded(stride * 4, 64) + padded(room * stride * 4, 64) + padded(room * stride, 64) +
         padded(room * groups * 4, 64) + 2 * padded(room * groups * runs(format) * 4, 64);
}

// `count` rows of x, normed, as a product with weights of `format` reads them.
static inline Rows make_rows(Scratch& scratch, i64 format, const Reading& reading, const Normed& norm,
                             const float* x, i64 x_stride, i64 count, i64 k) {
  const i64 stride = padded(k, GROUP), groups = stride / GROUP, room = padded(count, TILE);
  const bool rounded = reading.rounded;
  Rows rows = {stride, groups, x, nullptr, nullptr, nullptr, nullptr, nullptr};
  if (count == 1 && norm.norm == NO_NORM && !is_integer(format) && !rounded && filled(format, k) == k) return rows;
  const bool narrow = rounded && !is_integer(format);
  float *y = scratch.take<float>(stride), *all = scratch.take<float>(rounded ? 0 : room * stride);
  uint16_t* halves = scratch.take<uint16_t>(narrow ? room * stride : 0);
  int8_t* q = scratch.take<int8_t>(rounded && !narrow ? room * stride : 0);
  const int parts = runs(format), run = GROUP / parts;
  float *scales = scratch.take<float>(room * groups), *sums = scratch.take<float>(room * groups * parts);
  int32_t* begins = scratch.take<int32_t>(room * groups * parts);
  for (i64 i = k; i < stride; i++) y[i] = 0.0f;
  for (i64 r = 0; r < count; r++) {
    const i64 first = r / reading.tiling.most * reading.tiling.most, m = r - first, M = reading.tiling.tile(count - first);
    normalize(norm, x + r * x_stride, y, k);
    for (i64 g = 0; g < groups; g++) {
      const float* group = y + g * GROUP;
      const i64 place = first * stride + (g * M + m) * GROUP, at = (first * groups + g * M) * parts + m;  // of its first run
      if (narrow) {
        narrow_group(group, halves + place);
        continue;
      }
      if (rounded) {
        int32_t totals[2];
        const float scale = parts == 2 ? round_group<2>(group, q + place, totals) : round_group<1>(group, q + place, totals);
        scales[first * groups + g * M + m] = scale;
        for (int part = 0; part < parts; part++) {
          sums[at + part * M] = scale * static_cast<float>(totals[part]);
          begins[at + part * M] = -reading.added * totals[part];
        }
        continue;
      }
      memcpy(all + place, group, GROUP * 4);
      if (!has_minima(format)) continue;
      for (int part = 0; part < parts; part++) {
        V total = {};
        for (int i = 0; i < run; i += LANES) total += load(group + part * run + i);
        sums[at + part * M] = sum(total);
      }
    }
  }
  rows.x = all, rows.halves = halves, rows.q = rounded ? q : nullptr, rows.scales = scales, rows.sums = sums, rows.begins = begins;
  return rows;
}
