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

// Rows that are worked on together: so many that a weight is seldom read again, and their activations, 1 MB of floats,
// stay in the second cache; in blocks of about one size, and whole tiles.
static inline i64 rows_together(i64 rows, i64 k) {
  i64 most = 262144 / (k > 0 ? k : 1) / TILE * TILE;
  most = most < TILE ? TILE : most > 256 / TILE * TILE ? 256 / TILE * TILE : most;
  if (rows <= most) return rows;
  return padded(blocks(rows, blocks(rows, most)), TILE);
}

static i64 fused_linear_units(const FusedLinear& a) {
  return a.rows ? blocks(a.rows, rows_together(a.rows, a.size_k)) * blocks(a.size_n, PANEL) : 0;
}
static i64 fused_linear_scratch(const FusedLinear& a) {
  const i64 together = rows_together(a.rows, a.size_k);
  return rows_scratch(a.format, together, a.size_k) + together * 64;
}

static void fused_linear_reach(const FusedLinear& a, Reach& reach) {
  if (!reach.sizes({a.rows, a.size_n, a.size_k})) return;
  reach.need(!a.gated || a.size_n % 2 == 0, "size_n that is even, as it is gated");
  const Axes out = in_order({a.rows, a.gated ? a.size_n / 2 : a.size_n});
  reach.operand(a.x, {{a.rows, a.x_stride}, {a.size_k, 1}});
  reach.operand(a.weight, in_order({blocks(a.size_n, PANEL), panel_bytes(a.format, a.size_k)}), ANY_BYTE);
  reach.optional(a.bias, in_order({a.size_n}));
  reach.optional(a.norm_weight, in_order({a.size_k}));
  reach.optional(a.norm_bias, in_order({a.size_k}));
  reach.optional(a.residual, out);
  reach.result(a.out, out);
}

// What becomes of the sums of a panel.
struct Epilogue {
  const FusedLinear& a;
  const i64 columns = a.gated ? a.size_n / 2 : a.size_n;

  // `count` rows, from `row` on, of sums[count][16].
  void operator()(i64 panel, i64 row, i64 count, float* sums) const {
    if (a.gated) gated(panel, row, count, sums);
    else plain(panel, row, count, sums);
  }

 private:
  void plain(i64 panel, i64 row, i64 count, float* sums) const {
    const i64 first = panel * PANEL, left = columns - first < PANEL ? columns - first : PANEL;
    alignas(64) float bias[PANEL] = {};
    if (a.bias) memcpy(bias, a.bias + first, left * 4);
    for (i64 r = 0; r < count; r++) {
      for (int i = 0; i < PANEL; i += LANES)
        store(sums + r * PANEL + i, scaled(activated(load(sums + r * PANEL + i) + load(bias + i), a.activation)));
      give((row + r) * columns + first, sums + r * PANEL, left);
    }
  }

  // A panel has 8 gates and then the 8 that they are for.
  void gated(i64 panel, i64 row, i64 count, float* sums) const {
    constexpr int HALF = PANEL / 2;
    const i64 first = panel * HALF, left = columns - first < HALF ? columns - first : HALF;
    if (a.bias)
      for (i64 r = 0; r < count; r++)
        for (i64 i = 0; i < left; i++) {
          sums[r * PANEL + i] += a.bias[2 * (first + i)];
          sums[r * PANEL + HALF + i] += a.bias[2 * (first + i) + 1];
        }
#if defined(__AVX512F__)
    for (i64 r = 0; r < count; r += 2) {  // one register has the gates of two rows
      const V one = load(sums + r * PANEL), two = load(sums + (r + 1 < count ? r + 1 : r) * PANEL);
      const V gates = __builtin_shufflevector(one, two, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
      const V ups = __builtin_shufflevector(one, two, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
      alignas(64) float y[LANES];
      store(y, scaled(activated(gates, a.activation) * ups));
      give((row + r) * columns + first, y, left);
      if (r + 1 < count) give((row + r + 1) * columns + first, y + HALF, left);
    }
#else
    for (i64 r = 0; r < count; r++) {
      float* y = sums + r * PANEL;
      for (int i = 0; i < HALF; i += LANES) store(y + i, scaled(activated(load(y + i), a.activation) * load(y + HALF + i)));
      give((row + r) * columns + first, y, left);
    }
#endif
  }

  INLINE V scaled(V y) const {
    if (a.scale != 1.0) y = y * static_cast<float>(a.scale);
    if (a.softcap > 0.0) y = tanh(y / static_cast<float>(a.softcap)) * static_cast<float>(a.softcap);
    return y;
  }

  INLINE void give(i64 place, const float* y, i64 left) const {
    float* out = a.out + place;
    if (!a.residual) {
      memcpy(out, y, left * 4);
      return;
    }
    const float* before = a.residual + place;
    i64 i = 0;
    for (; i + LANES <= left; i += LANES) store(out + i, load(before + i) + load(y + i));
    for (; i < left; i++) out[i] = before[i] + y[i];
  }
};

static void fused_linear(const FusedLinear& a, Worker& w, i64 begin, i64 end) {
  const i64 panels = blocks(a.size_n, PANEL), together = rows_together(a.rows, a.size_k);
  const Epilogue epilogue = {a};
  const i64 bytes = panel_bytes(a.format, a.size_k);
  const Product product = product_of(a.format, w.rounded);
  Rows& rows = *reinterpret_cast<Rows*>(w.scratch);
  float* sums = reinterpret_cast<float*>(w.scratch + rows_scratch(a.format, together, a.size_k));
  while (begin < end) {
    const i64 block = begin / panels, first = begin % panels, last = first + (end - begin) < panels ? first + (end - begin) : panels;
    const i64 row = block * together, count = a.rows - row < together ? a.rows - row : together;
    if (w.prepared != block) {
      Scratch scratch = {w.scratch + padded(sizeof(Rows), 64)};
      rows = make_rows(scratch, a.format, product.reading, {a.norm, a.eps, a.norm_weight, a.norm_bias}, a.x + row * a.x_stride,
                       a.x_stride, count, a.size_k);
      w.prepared = block;
    }
    for (i64 panel = first; panel < last; panel++) {
      product.panel(a.weight + panel * bytes, rows, count, a.size_k, sums);
      epilogue(panel, row, count, sums);
    }
    begin += last - first;
  }
}
