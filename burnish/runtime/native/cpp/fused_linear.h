// residual + cap(scale * activation(linear(norm(x), weight, bias))), as burnish::fused_linear.
//
// Units are panels, those of one block of rows behind the other. Whoever works on a block norms its rows for itself:
// that is microseconds, and another barrier would not be less. Reads the weight once for each block of rows.
#pragma once
#include "dot.h"

struct FusedLinear {
  const float* x;
  const char* weight;
  const float *bias, *norm_weight, *norm_bias, *residual;
  float* out;
  i64 rows, size_n, size_k, x_stride;
  i64 format, norm;
  double eps;
  i64 activation, gated;  // gated: a panel has 8 gates, then the 8 that they are for
  double scale, softcap;
};
#define FUSED_LINEAR \
  "x:p weight:p bias:p norm_weight:p norm_bias:p residual:p out:w rows:i size_n:i size_k:i x_stride:i format:" FORMATS \
  " norm:" NORMS " eps:f activation:" ACTIVATIONS " gated:i scale:f softcap:f"

// Rows that are worked on together: their activations stay in the second cache.
static inline i64 rows_together(i64 rows, i64 k) {
  i64 most = 131072 / (k > 0 ? k : 1) / 12 * 12;
  most = most < 12 ? 12 : most > 96 ? 96 : most;
  return rows < most ? rows : most;
}

static i64 fused_linear_units(const FusedLinear& a) {
  return a.rows ? blocks(a.rows, rows_together(a.rows, a.size_k)) * blocks(a.size_n, PANEL) : 0;
}
static i64 fused_linear_scratch(const FusedLinear& a) {
  const i64 together = rows_together(a.rows, a.size_k);
  return rows_scratch(a.format, together, a.size_k) + together * 64;
}

// What becomes of 16 sums of a row: `n` is the first's place among the outputs, of which `count` are left.
struct Epilogue {
  const FusedLinear& a;
  const i64 columns = a.gated ? a.size_n / 2 : a.size_n;

  INLINE void operator()(i64 panel, i64 row, V y) const {
    const i64 width = a.gated ? 8 : 16, first = panel * width;
    const i64 count = columns - first < width ? columns - first : width;
    if (a.bias) {
      if (a.gated) {
        for (i64 i = 0; i < count; i++) y[i] += a.bias[2 * (first + i)], y[8 + i] += a.bias[2 * (first + i) + 1];
      } else {
        y += count == 16 ? load(a.bias + first) : load_some(a.bias + first, count);
      }
    }
    if (a.gated) {
      const V up = __builtin_shuffle(y, VI{8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15});
      y = activated(y, a.activation) * up;
    } else {
      y = activated(y, a.activation);
    }
    if (a.scale != 1.0) y = y * static_cast<float>(a.scale);
    if (a.softcap > 0.0) {
      const float cap = static_cast<float>(a.softcap);
      y = tanh(y / cap) * cap;
    }
    float* out = a.out + row * columns + first;
    const float* before = a.residual ? a.residual + row * columns + first : nullptr;
    if (count == 16) {
      store(out, before ? load(before) + y : y);
    } else {
      for (i64 i = 0; i < count; i++) out[i] = before ? before[i] + y[i] : y[i];
    }
  }
};

static void fused_linear(const FusedLinear& a, Worker& w, i64 begin, i64 end) {
  const i64 panels = blocks(a.size_n, PANEL), together = rows_together(a.rows, a.size_k);
  const Epilogue epilogue = {a};
  const i64 bytes = panel_bytes(a.format, a.size_k);
  const bool rounded = w.rounded && is_integer(a.format);
  const Product product = product_of(a.format, rounded);
  Rows& rows = *reinterpret_cast<Rows*>(w.scratch);
  V* sums = reinterpret_cast<V*>(w.scratch + rows_scratch(a.format, together, a.size_k));
  while (begin < end) {
    const i64 block = begin / panels, first = begin % panels, last = first + (end - begin) < panels ? first + (end - begin) : panels;
    const i64 row = block * together, count = a.rows - row < together ? a.rows - row : together;
    if (w.prepared != block) {
      Scratch scratch = {w.scratch + padded(sizeof(Rows), 64)};
      rows = make_rows(scratch, a.format, rounded, product.most, {a.norm, a.eps, a.norm_weight, a.norm_bias}, a.x + row * a.x_stride,
                       a.x_stride, count, a.size_k);
      w.prepared = block;
    }
    for (i64 panel = first; panel < last; panel++) {
      product.panel(a.weight + panel * bytes, rows, count, a.size_k, sums);
      for (i64 r = 0; r < count; r++) epilogue(panel, row + r, sums[r]);
    }
    begin += last - first;
  }
}
