// Norms, softmax, reductions and rotary embeddings of rows, whose leading axes have strides of their own.
#pragma once
#include "elementwise.h"
#include "rows.h"

// out = norm(x) * weight + bias over `length` elements.
struct NormRows {
  float* out;
  const float *x, *weight, *bias;
  i64 length, norm;
  double eps;
  i64 size[AXES], out_stride[AXES], x_stride[AXES];
};
#define NORM_ROWS \
  "out:w x:p weight:p bias:p length:i norm:" NORMS " eps:f" SIX("size") SIX("out_stride") SIX("x_stride")

template <class A>
Space<2> rows_of(const A& a) { return Space<2>(a.size, {a.out_stride, a.x_stride}); }
template <class A>
i64 rows_units(const A& a) { return rows_of(a).count(); }

static void norm_rows_reach(const NormRows& a, Reach& reach) {
  reach.result(a.out, axes_of(a.size, a.out_stride, {a.length, 1}));
  reach.operand(a.x, axes_of(a.size, a.x_stride, {a.length, 1}));
  reach.optional(a.weight, in_order({a.length}));
  reach.optional(a.bias, in_order({a.length}));
}

static void norm_rows(const NormRows& a, Worker&, i64 begin, i64 end) {
  const Space<2> rows = rows_of(a);
  for (i64 at[2]; begin < end; begin++) {
    rows.element(begin, at);
    normalize({a.norm, a.eps, a.weight, a.bias}, a.x + at[1], a.out + at[0], a.length);
  }
}

struct SoftmaxRows {
  float* out;
  const float* x;
  i64 length;
  i64 size[AXES], out_stride[AXES], x_stride[AXES];
};
#define SOFTMAX_ROWS "out:w x:p length:i" SIX("size") SIX("out_stride") SIX("x_stride")

// exp(x - max) / sum. A row with what is no number has none.
static void softmax_row(const float* x, float* out, i64 n) {
  const float lowest = -__builtin_inff();
  V most = splat(lowest), total = {};
  i64 i = 0;
  for (; i + LANES <= n; i += LANES) most = maximum(load(x + i), most);
  float top = greatest(most);
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  for (i = 0; i + LANES <= n; i += LANES) {
    const V part = exp(load(x + i) - top);
    total += part;
    store(out + i, part);
  }
  float all = sum(total);
  if (i < n) {
    const V part = exp(load_some(x + i, n - i) - top);
    store_some(out + i, part, n - i);
    for (; i < n; i++) all += out[i];
  }
  for (i = 0; i + LANES <= n; i += LANES) store(out + i, load(out + i) / all);
  for (; i < n; i++) out[i] /= all;
}

static void softmax_rows_reach(const SoftmaxRows& a, Reach& reach) {
  reach.result(a.out, axes_of(a.size, a.out_stride, {a.length, 1}));
  reach.operand(a.x, axes_of(a.size, a.x_stride, {a.length, 1}));
}

static void softmax_rows(const SoftmaxRows& a, Worker&, i64 begin, i64 end) {
  const Space<2> rows = rows_of(a);
  for (i64 at[2]; begin < end; begin++) {
    rows.element(begin, at);
    softmax_row(a.x + at[1], a.out + at[0], a.length);
  }
}

// Sums, means or the greatest of `length` elements, each `step` behind the one before.
enum Reduction { SUM, MEAN, AMAX };
struct Reduce {
  void* out;
  const void* x;
  i64 reduction, integers, length, step;
  i64 size[AXES], out_stride[AXES], x_stride[AXES];
};
#define REDUCE \
  "out:w x:p reduction:sum|mean|amax integers:i length:i step:i" SIX("size") SIX("out_stride") SIX("x_stride")

static void reduce_reach(const Reduce& a, Reach& reach) {
  if (!reach.need(a.length > 0, "length above 0")) return;
  const ElementType type = a.integers ? type_of<i64>() : type_of<float>();
  reach.result(a.out, axes_of(a.size, a.out_stride), type);
  reach.operand(a.x, axes_of(a.size, a.x_stride, {a.length, a.step}), type);
}

constexpr i64 RESULTS = 64;  // of a unit
static Blocks<2> reduce_blocks(const Reduce& a) { return Blocks<2>(rows_of(a), RESULTS); }

// One row of elements that lie side by side.
static float reduced_row(const Reduce& a, const float* x) {
  const bool adds = a.reduction != AMAX;
  V all = splat(adds ? 0.0f : x[0]);
  i64 i = 0;
  for (; i + LANES <= a.length; i += LANES) all = adds ? all + load(x + i) : largest(load(x + i), all);
  if (adds) {
    float total = sum(all + load_some(x + i, a.length - i));
    return a.reduction == MEAN ? total / static_cast<float>(a.length) : total;
  }
  float lanes[LANES], most = x[0];
  store(lanes, all);
  for (float lane : lanes) most = lane > most || lane != lane ? lane : most;
  for (; i < a.length; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most;
  return most;
}

// `count` results whose elements lie side by side: all of them go through each step together.
static void reduced_stretches(const Reduce& a, const float* x, i64 count, float* out) {
  memcpy(out, x, count * sizeof(float));
  for (i64 t = 1; t < a.length; t++) {
    const float* row = x + t * a.step;
    if (a.reduction == AMAX) map(row, out, out, count, [](V each, V most) INLINE_LAMBDA { return largest(each, most); });
    else map(out, row, out, count, [](V total, V each) INLINE_LAMBDA { return total + each; });
  }
  const float length = static_cast<float>(a.length);
  if (a.reduction == MEAN) map(out, out, count, [=](V total) INLINE_LAMBDA { return total / length; });
}

// The same for results that lie anywhere.
template <class T>
static void reduced_columns(const Reduce& a, const T* x, i64 count, i64 stride, T* out) {
  for (i64 i = 0; i < count; i++) out[i] = x[i * stride];
  for (i64 t = 1; t < a.length; t++) {
    const T* row = x + t * a.step;
    if (a.reduction == AMAX) {
      for (i64 i = 0; i < count; i++) {
        const T each = row[i * stride];
        out[i] = each > out[i] || each != each ? each : out[i];
      }
    } else if constexpr (std::is_same_v<T, i64>) {
      for (i64 i = 0; i < count; i++) out[i] = wrapped(bits(out[i]) + bits(row[i * stride]));
    } else {
      for (i64 i = 0; i < count; i++) out[i] += row[i * stride];
    }
  }
  if (a.reduction == MEAN)
    for (i64 i = 0; i < count; i++) out[i] /= static_cast<T>(a.length);
}

static void reduced(const Reduce& a, const i64* x, i64 count, i64 stride, i64* out) { reduced_columns(a, x, count, stride, out); }
static void reduced(const Reduce& a, const float* x, i64 count, i64 stride, float* out) {
  if (a.step == 1) for (i64 i = 0; i < count; i++) out[i] = reduced_row(a, x + i * stride);
  else if (stride == 1) reduced_stretches(a, x, count, out);
  else reduced_columns(a, x, count, stride, out);
}

template <class T>
static void reduce_as(const Reduce& a, i64 begin, i64 end) {
  const Blocks<2> all = reduce_blocks(a);
  const int last = all.space.axes - 1;
  const i64 out_stride = all.space.stride[0][last], x_stride = all.space.stride[1][last];
  BlockOf<2> block;
  T found[RESULTS];
  for (; begin < end; begin++) {
    block.set(all, begin);
    for (i64 r = 0; r < block.rows; r++) {
      const T* x = static_cast<const T*>(a.x) + block.at[1][r];
      T* out = static_cast<T*>(a.out) + block.at[0][r];
      reduced(a, x, block.length, x_stride, found);
      for (i64 i = 0; i < block.length; i++) out[i * out_stride] = found[i];
    }
  }
}

static i64 reduce_units(const Reduce& a) { return reduce_blocks(a).count; }
static void reduce(const Reduce& a, Worker&, i64 begin, i64 end) {
  if (a.integers) reduce_as<i64>(a, begin, end);
  else reduce_as<float>(a, begin, end);
}

// As burnish::rotary: the first `turned` of `length` elements, the others as they are.
struct RotaryRows {
  float* out;
  const float *x, *cos, *sin;
  i64 length, turned, interleaved;
  i64 size[AXES], out_stride[AXES], x_stride[AXES], cos_stride[AXES], sin_stride[AXES];
};
#define ROTARY_ROWS                                                                                        \
  "out:w x:p cos:p sin:p length:i turned:i interleaved:i" SIX("size") SIX("out_stride") SIX("x_stride") \
  SIX("cos_stride") SIX("sin_stride")

static void rotary_rows_reach(const RotaryRows& a, Reach& reach) {
  if (!reach.need(a.turned >= 0 && a.turned <= a.length && a.turned % 2 == 0, "turned that is even and no more than length")) return;
  reach.result(a.out, axes_of(a.size, a.out_stride, {a.length, 1}));
  reach.operand(a.x, axes_of(a.size, a.x_stride, {a.length, 1}));
  reach.operand(a.cos, axes_of(a.size, a.cos_stride, {a.turned, 1}));
  reach.operand(a.sin, axes_of(a.size, a.sin_stride, {a.turned, 1}));
}

static void rotary_row(const RotaryRows& a, const float* x, const float* cos, const float* sin, float* out) {
  const i64 half = a.turned / 2;
  i64 i = 0;
  if (!a.interleaved) {
    for (; i + LANES <= half; i += LANES) {
      const V first = load(x + i), second = load(x + half + i);
      store(out + i, first * load(cos + i) - second * load(sin + i));
      store(out + half + i, second * load(cos + half + i) + first * load(sin + half + i));
    }
  }
  for (; i < half; i++) {
    const i64 p = a.interleaved ? 2 * i : i, q = a.interleaved ? 2 * i + 1 : half + i;
    const float first = x[p], second = x[q];
    out[p] = first * cos[p] - second * sin[p];
    out[q] = second * cos[q] + first * sin[q];
  }
  memcpy(out + a.turned, x + a.turned, (a.length - a.turned) * sizeof(float));
}

static Space<4> rotary_space(const RotaryRows& a) {
  return Space<4>(a.size, {a.out_stride, a.x_stride, a.cos_stride, a.sin_stride});
}
static i64 rotary_units(const RotaryRows& a) { return rotary_space(a).count(); }
static void rotary_rows(const RotaryRows& a, Worker&, i64 begin, i64 end) {
  const Space<4> rows = rotary_space(a);
  for (i64 at[4]; begin < end; begin++) {
    rows.element(begin, at);
    rotary_row(a, a.x + at[1], a.cos + at[2], a.sin + at[3], a.out + at[0]);
  }
}
