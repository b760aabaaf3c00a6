// Rows of activations as products read them: floats, or int8 in groups of 32 with a scale and the sum of each.
#pragma once
#include <cmath>

#include "formats.h"
#include "vector.h"

struct Rows {
  const float* x;  // [rows][stride]
  i64 stride;
  const float* sums;  // [rows][groups]: of x by groups of 32, for weights that have minima; else null
  const int8_t* q;    // [rows][stride]: x is about scale * q; null where products take floats
  const float* scales;  // [rows][groups]
  const int32_t* totals;  // [rows][groups]: of q
  i64 groups;
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

// One group as integers: scale = greatest / 127.
INLINE void round_group(const float* x, int8_t* q, float* scale, float* sum_of_x, int32_t* total) {
  V a = load(x), b = load(x + LANES);
  V size = maximum((V)((VI)a & 0x7fffffff), (V)((VI)b & 0x7fffffff));
  float most = greatest(size);
  float inverse = most > 0.0f ? 127.0f / most : 0.0f;
  *scale = most / 127.0f + sum((a - a) + (b - b));  // what is no number, or too large to be one, stays so
  const V magic = splat(12582912.0f);  // 1.5 * 2^23: what is added to it has its nearest whole number in the low bits
  typedef int8_t Bytes __attribute__((vector_size(16)));
  VI whole_a = (VI)(a * inverse + magic) - (VI)magic, whole_b = (VI)(b * inverse + magic) - (VI)magic;
  Bytes bytes_a = __builtin_convertvector(whole_a, Bytes), bytes_b = __builtin_convertvector(whole_b, Bytes);
  memcpy(q, &bytes_a, 16);
  memcpy(q + 16, &bytes_b, 16);
  VI whole = whole_a + whole_b;
  int32_t parts[16], all = 0;
  memcpy(parts, &whole, 64);
  for (int32_t part : parts) all += part;
  *total = all;
  *sum_of_x = *scale * static_cast<float>(all);
}

// What is taken of a thread's scratch for `rows` rows of k, and for a Rows in front that says where they are.
static inline i64 rows_scratch(i64 format, i64 rows, i64 k) {
  const i64 stride = padded(filled(format, k), GROUP);
  return padded(sizeof(Rows), 64) + padded(rows * stride * 4, 64) + padded(rows * stride, 64) + 3 * padded(rows * (stride / GROUP) * 4, 64);
}

// `count` rows of x, normed, as a product with weights of `format` reads them.
static inline Rows make_rows(Scratch& scratch, i64 format, bool rounded, const Normed& norm, const float* x,
                             i64 x_stride, i64 count, i64 k) {
  const i64 stride = padded(filled(format, k), GROUP), groups = stride / GROUP;
  if (norm.norm == NO_NORM && !is_integer(format) && filled(format, k) == k) return {x, x_stride, nullptr, nullptr, nullptr, nullptr, 0};
  float* y = scratch.take<float>(count * stride);
  for (i64 r = 0; r < count; r++) {
    normalize(norm, x + r * x_stride, y + r * stride, k);
    for (i64 i = k; i < stride; i++) y[r * stride + i] = 0.0f;
  }
  Rows rows = {y, stride, nullptr, nullptr, nullptr, nullptr, groups};
  if (!is_integer(format)) return rows;
  float* sums = scratch.take<float>(count * groups);
  rows.sums = sums;
  if (!rounded) {
    for (i64 g = 0; g < count * groups; g++) sums[g] = sum(load(y + g * GROUP) + load(y + g * GROUP + LANES));
    return rows;
  }
  int8_t* q = scratch.take<int8_t>(count * stride);
  float* scales = scratch.take<float>(count * groups);
  int32_t* totals = scratch.take<int32_t>(count * groups);
  for (i64 g = 0; g < count * groups; g++) round_group(y + g * GROUP, q + g * GROUP, scales + g, sums + g, totals + g);
  rows.totals = totals;
  rows.q = q;
  rows.scales = scales;
  return rows;
}
