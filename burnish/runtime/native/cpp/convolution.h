// out[b, c, t] = bias[c] + sum over i, k of x[b, group(c) * I + i, t + k * dilation] * weight[c, i, k], as aten::conv1d
// without padding. Units are channels of a row of the batch. Each sum is added up in one order, however many tokens
// there are: 16 of them at a time.
#pragma once
#include "reach.h"
#include "vector.h"

struct Convolution {
  const float *x, *weight, *bias;
  float* out;
  i64 batch, channels, groups, inputs, taps, dilation, tokens;  // inputs: of a group
  i64 x_stride_b, x_stride_c, x_stride_t;
};
#define CONVOLUTION \
  "x:p weight:p bias:p out:w batch:i channels:i groups:i inputs:i taps:i dilation:i tokens:i " \
  "x_stride_b:i x_stride_c:i x_stride_t:i"

static inline i64 tokens_read(const Convolution& a) { return a.tokens + (a.taps - 1) * a.dilation; }

static void convolution_reach(const Convolution& a, Reach& reach) {
  if (!reach.sizes({a.batch, a.channels, a.groups, a.inputs, a.taps, a.dilation, a.tokens})) return;
  if (!reach.need(a.groups > 0 && a.channels % a.groups == 0, "groups that channels can be shared among")) return;
  if (!reach.need(a.taps > 0 && a.taps <= INT32_MAX && a.dilation <= INT16_MAX, "taps above 0, and a small dilation")) return;
  i64 inputs;
  if (!reach.need(!__builtin_mul_overflow(a.groups, a.inputs, &inputs), "tensors that memory can have")) return;
  reach.operand(a.x, {{a.batch, a.x_stride_b}, {inputs, a.x_stride_c}, {tokens_read(a), a.x_stride_t}});
  reach.operand(a.weight, in_order({a.channels, a.inputs, a.taps}));
  reach.optional(a.bias, in_order({a.channels}));
  reach.result(a.out, in_order({a.batch, a.channels, a.tokens}));
}

static i64 convolution_units(const Convolution& a) { return a.batch * a.channels; }
static i64 convolution_scratch(const Convolution& a) { return a.x_stride_t == 1 ? 0 : a.inputs * tokens_read(a) * 4; }

template <class T, class F>
INLINE T sum_of_taps(const Convolution& a, const float* weight, T total, F&& at) {
  for (i64 i = 0; i < a.inputs; i++)
    for (i64 k = 0; k < a.taps; k++) total += at(i, k) * weight[i * a.taps + k];
  return total;
}

static void convolution(const Convolution& a, Worker& w, i64 begin, i64 end) {
  const i64 read = tokens_read(a);
  float* gathered = reinterpret_cast<float*>(w.scratch);
  for (; begin < end; begin++) {
    const i64 b = begin / a.channels, c = begin % a.channels, group = c / (a.channels / a.groups);
    const float* x = a.x + b * a.x_stride_b + group * a.inputs * a.x_stride_c;
    i64 stride = a.x_stride_c;
    if (a.x_stride_t != 1) {  // tokens side by side, once for all channels of the group
      if (w.prepared != b * a.groups + group)
        for (i64 i = 0; i < a.inputs; i++)
          for (i64 t = 0; t < read; t++) gathered[i * read + t] = x[i * a.x_stride_c + t * a.x_stride_t];
      w.prepared = b * a.groups + group;
      x = gathered, stride = read;
    }
    const float* weight = a.weight + c * a.inputs * a.taps;
    const float bias = a.bias ? a.bias[c] : 0.0f;
    float* out = a.out + begin * a.tokens;
    i64 t = 0;
    for (; t + LANES <= a.tokens; t += LANES)
      store(out + t, sum_of_taps(a, weight, splat(bias), [&](i64 i, i64 k) { return load(x + i * stride + t + k * a.dilation); }));
    for (; t < a.tokens; t++)
      out[t] = sum_of_taps(a, weight, bias, [&](i64 i, i64 k) { return x[i * stride + t + k * a.dilation]; });
  }
}
