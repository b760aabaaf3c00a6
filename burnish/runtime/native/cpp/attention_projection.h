// Norm, the projections to queries, keys and values, rotary embedding, and the write into the caches, as
// burnish::attention_projection. Units are heads; each begins at a panel of its own.
#pragma once
#include <algorithm>

#include "fused_linear.h"
#include "states.h"

struct AttentionProjection {
  const float* x;
  const char* weight;
  void *key_state, *value_state;
  const i64* position;
  const float *bias, *norm_weight, *norm_bias, *query_norm, *key_norm, *cos, *sin;
  float* query;
  i64 batch, tokens, size_k, x_stride, heads, kv_heads, head_size, capacity, rotary_size;
  i64 cos_stride_b, cos_stride_s, sin_stride_b, sin_stride_s;
  i64 query_stride_b, query_stride_h, query_stride_s;
  i64 format, norm;
  double eps, head_eps;
  i64 interleaved, element;
};
#define ATTENTION_PROJECTION \
  "x:p weight:p key_state:w value_state:w position:p bias:p norm_weight:p norm_bias:p query_norm:p key_norm:p cos:p " \
  "sin:p query:w batch:i tokens:i size_k:i x_stride:i heads:i kv_heads:i head_size:i capacity:i rotary_size:i " \
  "cos_stride_b:i cos_stride_s:i sin_stride_b:i sin_stride_s:i query_stride_b:i query_stride_h:i query_stride_s:i " \
  "format:" FORMATS " norm:" NORMS " eps:f head_eps:f interleaved:i element:" ELEMENTS

static i64 attention_projection_units(const AttentionProjection& a) {
  const i64 rows = a.batch * a.tokens;
  return rows ? blocks(rows, rows_together(rows, a.size_k)) * (a.heads + 2 * a.kv_heads) : 0;
}
static i64 attention_projection_scratch(const AttentionProjection& a) {
  const i64 together = rows_together(a.batch * a.tokens, a.size_k);
  return rows_scratch(a.format, together, a.size_k) + together * 64 + (together + 1) * padded(a.head_size, PANEL) * 4;
}

static void attention_projection_reach(const AttentionProjection& a, Reach& reach) {
  if (!reach.sizes({a.batch, a.tokens, a.size_k, a.heads, a.kv_heads, a.head_size, a.capacity, a.rotary_size})) return;
  reach.need(a.rotary_size <= a.head_size && a.rotary_size % 2 == 0, "rotary_size that is even and no more than head_size");
  const i64 all = a.heads + 2 * a.kv_heads;
  const Axes state = in_order({a.batch, a.kv_heads, a.capacity, a.head_size});
  i64 rows;
  if (!reach.need(!__builtin_mul_overflow(a.batch, a.tokens, &rows), "tensors that memory can have")) return;
  reach.operand(a.x, {{rows, a.x_stride}, {a.size_k, 1}});
  reach.operand(a.weight, in_order({all, blocks(a.head_size, PANEL), panel_bytes(a.format, a.size_k)}), ANY_BYTE);
  reach.result(a.key_state, state, ELEMENT_TYPES[a.element]);
  reach.result(a.value_state, state, ELEMENT_TYPES[a.element]);
  reach.operand(a.position, in_order({a.batch}));
  reach.optional(a.bias, in_order({all, a.head_size}));
  reach.optional(a.norm_weight, in_order({a.size_k}));
  reach.optional(a.norm_bias, in_order({a.size_k}));
  reach.optional(a.query_norm, in_order({a.head_size}));
  reach.optional(a.key_norm, in_order({a.head_size}));
  reach.optional(a.cos, {{a.batch, a.cos_stride_b}, {a.tokens, a.cos_stride_s}, {a.rotary_size, 1}});
  if (a.cos || a.sin) reach.operand(a.sin, {{a.batch, a.sin_stride_b}, {a.tokens, a.sin_stride_s}, {a.rotary_size, 1}});
  reach.result(a.query, {{a.batch, a.query_stride_b}, {a.heads, a.query_stride_h}, {a.tokens, a.query_stride_s}, {a.head_size, 1}});
}

// y[size] of one head, turned by its position, into out; `other` is room for size floats.
static inline void rotate(const float* y, float* out, const float* cos, const float* sin, i64 size, i64 turned, bool interleaved) {
  if (interleaved) {
    for (i64 i = 0; i < turned; i += 2) {
      out[i] = y[i] * cos[i] - y[i + 1] * sin[i];
      out[i + 1] = y[i + 1] * cos[i + 1] + y[i] * sin[i + 1];
    }
  } else {
    const i64 half = turned / 2;
    i64 i = 0;
    for (; i + LANES <= half; i += LANES) {
      const V one = load(y + i), two = load(y + half + i);
      store(out + i, one * load(cos + i) - two * load(sin + i));
      store(out + half + i, two * load(cos + half + i) + one * load(sin + half + i));
    }
    for (; i < half; i++) {
      out[i] = y[i] * cos[i] - y[i + half] * sin[i];
      out[i + half] = y[i + half] * cos[i + half] + y[i] * sin[i + half];
    }
  }
  for (i64 i = turned; i < size; i++) out[i] = y[i];
}

template <int ELEMENT>
static inline void write_head(void* state, i64 place, const float* y, i64 size) {
  auto* to = static_cast<typename Elements<ELEMENT>::Type*>(state) + place;
  if constexpr (ELEMENT == FLOAT32) memcpy(to, y, size * 4);
  else
    for (i64 i = 0; i < size; i++) to[i] = narrowed<ELEMENT>(y[i]);
}

static void attention_projection(const AttentionProjection& a, Worker& w, i64 begin, i64 end) {
  const i64 all = a.heads + 2 * a.kv_heads, rows = a.batch * a.tokens, together = rows_together(rows, a.size_k);
  const i64 width = padded(a.head_size, PANEL), panels = width / PANEL;
  Rows& read = *reinterpret_cast<Rows*>(w.scratch);
  const i64 bytes = panel_bytes(a.format, a.size_k);
  const Product product = product_of(a.format, w.rounded);
  float* sums = reinterpret_cast<float*>(w.scratch + rows_scratch(a.format, together, a.size_k));
  float* y = sums + together * PANEL;
  float* turned = y + together * width;
  for (; begin < end; begin++) {
    const i64 block = begin / all, head = begin % all, row = block * together;
    const i64 count = rows - row < together ? rows - row : together;
    if (w.prepared != block) {
      Scratch scratch = {w.scratch + padded(sizeof(Rows), 64)};
      read = make_rows(scratch, a.format, product.reading, {a.norm, a.eps, a.norm_weight, a.norm_bias}, a.x + row * a.x_stride,
                       a.x_stride, count, a.size_k);
      w.prepared = block;
    }
    const i64 start = head * panels;
    for (i64 panel = 0; panel < panels; panel++) {
      product.panel(a.weight + (start + panel) * bytes, read, count, a.size_k, sums);
      for (i64 r = 0; r < count; r++) memcpy(y + r * width + panel * PANEL, sums + r * PANEL, PANEL * 4);
    }
    const bool is_query = head < a.heads, is_key = !is_query && head < a.heads + a.kv_heads;
    const float* norm = is_query ? a.query_norm : is_key ? a.key_norm : nullptr;
    for (i64 r = 0; r < count; r++) {
      float* mine = y + r * width;
      const i64 b = (row + r) / a.tokens, s = (row + r) % a.tokens;
      if (a.bias)
        for (i64 i = 0; i < a.head_size; i++) mine[i] += a.bias[head * a.head_size + i];
      if (norm) normalize({RMS, a.head_eps, norm, nullptr}, mine, mine, a.head_size);
      if (a.cos && (is_query || is_key)) {
        rotate(mine, turned, a.cos + b * a.cos_stride_b + s * a.cos_stride_s, a.sin + b * a.sin_stride_b + s * a.sin_stride_s,
               a.head_size, a.rotary_size, a.interleaved);
        mine = turned;
      }
      if (is_query) {
        memcpy(a.query + b * a.query_stride_b + head * a.query_stride_h + s * a.query_stride_s, mine, a.head_size * 4);
        continue;
      }
      const i64 kv_head = (head - a.heads) % a.kv_heads, slot = std::clamp(a.position[b], -a.tokens, a.capacity) + s;
      if (slot < 0 || slot >= a.capacity) continue;  // the session made room; nothing is written outside of it
      const i64 place = ((b * a.kv_heads + kv_head) * a.capacity + slot) * a.head_size;
      void* state = is_key ? a.key_state : a.value_state;
      if (a.element == FLOAT32) write_head<FLOAT32>(state, place, mine, a.head_size);
      else if (a.element == BFLOAT16) write_head<BFLOAT16>(state, place, mine, a.head_size);
      else write_head<FLOAT16>(state, place, mine, a.head_size);
    }
  }
}
