// out[n, k] = x[n, k or 0] @ weight[experts[n, k]]^T + bias[experts[n, k]], as burnish::moe_linear.
//
// Choices (a token and one of its experts) are put in the order of their experts, and those of one expert in blocks of
// rows. Units are a few panels of a block's weight, which is read once for each: experts that nobody chose are not
// read. Who chose no expert that there is has zeros.
#pragma once
#include <algorithm>

#include "fused_linear.h"

struct MoeLinear {
  const float* x;
  const char* weight;  // [experts][panels]
  const float* bias;
  const i64* experts;
  float* out;
  i64 rows, choices, count, size_n, size_k, shared;  // shared: the choices of a token have one x
  i64 format;
};
#define MOE_LINEAR \
  "x:p weight:p bias:p experts:p out:w rows:i choices:i count:i size_n:i size_k:i shared:i format:" FORMATS

constexpr i64 PANELS_TOGETHER = 4;

static inline i64 choices_together(const MoeLinear& a) { return rows_together(a.rows * a.choices, a.size_k); }

static void moe_linear_reach(const MoeLinear& a, Reach& reach) {
  if (!reach.sizes({a.rows, a.choices, a.count, a.size_n, a.size_k})) return;
  reach.operand(a.x, in_order({a.rows, a.shared ? 1 : a.choices, a.size_k}));
  reach.operand(a.weight, in_order({a.count, blocks(a.size_n, PANEL), panel_bytes(a.format, a.size_k)}), ANY_BYTE);
  reach.optional(a.bias, in_order({a.count, a.size_n}));
  reach.operand(a.experts, in_order({a.rows, a.choices}));
  reach.result(a.out, in_order({a.rows, a.choices, a.size_n}));
}

// As many as there can be: which experts were chosen is not known ahead. `count` stands for no expert.
static inline i64 most_blocks(const MoeLinear& a) {
  const i64 choices = a.rows * a.choices, together = choices_together(a), different = std::min(a.count + 1, choices);
  return choices ? (choices + different * (together - 1)) / together : 0;
}

static i64 moe_linear_units(const MoeLinear& a) { return most_blocks(a) * blocks(blocks(a.size_n, PANEL), PANELS_TOGETHER); }

// Choices by expert: those of expert e are order[starts[e]] to order[starts[e + 1] - 1].
struct Chosen {
  i64 *starts, *order;

  Chosen(Scratch& scratch, const MoeLinear& a) : starts(scratch.take<i64>(a.count + 2)), order(scratch.take<i64>(a.rows * a.choices)) {}

  void sort(const MoeLinear& a) {
    const i64 choices = a.rows * a.choices;
    auto expert = [&](i64 choice) { return a.experts[choice] < 0 || a.experts[choice] > a.count ? a.count : a.experts[choice]; };
    std::fill(starts, starts + a.count + 2, 0);
    for (i64 i = 0; i < choices; i++) starts[expert(i) + 1]++;
    for (i64 e = 0; e <= a.count; e++) starts[e + 1] += starts[e];
    for (i64 i = 0; i < choices; i++) order[starts[expert(i)]++] = i;  // afterwards each start is the next one's
    for (i64 e = a.count + 1; e > 0; e--) starts[e] = starts[e - 1];
    starts[0] = 0;
  }
};

static i64 moe_linear_scratch(const MoeLinear& a) {
  const i64 together = choices_together(a);
  return padded((a.count + 2) * 8, 64) + padded(a.rows * a.choices * 8, 64) + padded(together * a.size_k * 4, 64) +
         together * 64 + rows_scratch(a.format, together, a.size_k);
}

static void moe_linear(const MoeLinear& a, Worker& w, i64 begin, i64 end) {
  const i64 panels = blocks(a.size_n, PANEL), parts = blocks(panels, PANELS_TOGETHER), together = choices_together(a);
  const i64 bytes = panel_bytes(a.format, a.size_k);
  const Product product = product_of(a.format, w.rounded);
  Scratch scratch = {w.scratch};
  Chosen chosen(scratch, a);
  float* x = scratch.take<float>(together * a.size_k);
  float* sums = scratch.take<float>(together * PANEL);
  Rows& rows = *scratch.take<Rows>(1);
  if (w.prepared < 0) chosen.sort(a);
  i64 expert = 0, before = 0;  // blocks of those before the expert
  for (; begin < end; begin++) {
    const i64 block = begin / parts, part = begin % parts;
    auto own = [&] { return blocks(chosen.starts[expert + 1] - chosen.starts[expert], together); };
    while (expert <= a.count && before + own() <= block) before += own(), expert++;
    if (expert > a.count) return;  // choices are in fewer blocks than there could be
    const i64* choices = chosen.order + chosen.starts[expert] + (block - before) * together;
    const i64 count = std::min(together, chosen.order + chosen.starts[expert + 1] - choices);
    if (w.prepared != block && expert < a.count) {
      for (i64 r = 0; r < count; r++)
        memcpy(x + r * a.size_k, a.x + (a.shared ? choices[r] / a.choices : choices[r]) * a.size_k, a.size_k * 4);
      Scratch rest = scratch;
      rows = make_rows(rest, a.format, product.reading, {NO_NORM, 0.0, nullptr, nullptr}, x, a.size_k, count, a.size_k);
    }
    w.prepared = block;
    for (i64 panel = part * PANELS_TOGETHER; panel < std::min(panels, (part + 1) * PANELS_TOGETHER); panel++) {
      const i64 first = panel * PANEL, width = std::min<i64>(PANEL, a.size_n - first);
      if (expert < a.count) product.panel(a.weight + (expert * panels + panel) * bytes, rows, count, a.size_k, sums);
      else std::fill(sums, sums + count * PANEL, 0.0f);
      const float* bias = a.bias && expert < a.count ? a.bias + expert * a.size_n + first : nullptr;
      for (i64 r = 0; r < count; r++) {
        float* out = a.out + choices[r] * a.size_n + first;
        for (i64 i = 0; i < width; i++) out[i] = bias ? sums[r * PANEL + i] + bias[i] : sums[r * PANEL + i];
      }
    }
  }
}
