// The greatest of each row, and the greatest `count`.
#pragma once
#include <algorithm>
#include <vector>

#include "reach.h"
#include "vector.h"

struct Argmax {
  const float* x;
  i64* out;
  i64 rows, size;
};
#define ARGMAX "x:p out:w rows:i size:i"

static void argmax_reach(const Argmax& a, Reach& reach) {
  reach.operand(a.x, in_order({a.rows, a.size}));
  reach.result(a.out, in_order({a.rows}));
}
static i64 argmax_units(const Argmax& a) { return a.rows; }
// The first of equal ones; what is no number is above all.
static void argmax(const Argmax& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const float* x = a.x + begin * a.size;
    V most = splat(-__builtin_inff());
    VI wrong = {};
    i64 i = 0;
    for (; i + LANES <= a.size; i += LANES) {
      const V part = load(x + i);
      most = maximum(part, most);
      wrong |= part != part;
    }
    float best = greatest(most);
    bool strange = sum(select(wrong, splat(1.0f), splat(0.0f))) > 0.0f;
    for (; i < a.size; i++) best = x[i] > best ? x[i] : best, strange |= x[i] != x[i];
    i64 found = 0;
    while (found + 1 < a.size && !(strange ? x[found] != x[found] : x[found] == best)) found++;
    a.out[begin] = found;
  }
}

struct TopScores {
  const float* x;
  int32_t* out;  // [rows][2][count]: bits, ids
  i64 rows, size, count;
};
#define TOP_SCORES "x:p out:w rows:i size:i count:i"

static void top_scores_reach(const TopScores& a, Reach& reach) {
  if (!reach.need(a.count > 0 && a.count <= a.size && a.size <= INT32_MAX, "count of 1 to size")) return;
  reach.operand(a.x, in_order({a.rows, a.size}));
  reach.result(a.out, in_order({a.rows, 2, a.count}));
}
static i64 top_scores_units(const TopScores& a) { return a.rows; }
static i64 top_scores_scratch(const TopScores& a) { return a.size * 4; }
// As burnish::top_scores: in the row's order; of equal ones the first; what is no number above all, and -0.0 is 0.0.
static void top_scores(const TopScores& a, Worker& w, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const float* x = a.x + begin * a.size;
    int32_t* ids = reinterpret_cast<int32_t*>(w.scratch);
    auto before = [&](int32_t i, int32_t j) {
      const float p = x[i] + 0.0f, q = x[j] + 0.0f;
      const bool strange = p != p, other = q != q;
      if (strange || other) return strange != other ? strange : i < j;
      return p != q ? p > q : i < j;
    };
    for (i64 i = 0; i < a.size; i++) ids[i] = static_cast<int32_t>(i);
    std::nth_element(ids, ids + a.count - 1, ids + a.size, before);
    std::sort(ids, ids + a.count);
    int32_t *bits = a.out + begin * 2 * a.count, *places = bits + a.count;
    for (i64 i = 0; i < a.count; i++) {
      const float value = x[ids[i]] + 0.0f;
      memcpy(bits + i, &value, 4);
      places[i] = ids[i];
    }
  }
}

struct Topk {
  const float* x;
  float* values;
  i64* indices;
  i64 rows, size, count, largest;
};
#define TOPK "x:p values:w indices:w rows:i size:i count:i largest:i"

static void topk_reach(const Topk& a, Reach& reach) {
  if (!reach.need(a.count >= 0 && a.count <= a.size && a.size <= INT32_MAX, "count of 0 to size")) return;
  reach.operand(a.x, in_order({a.rows, a.size}));
  reach.result(a.values, in_order({a.rows, a.count}));
  reach.result(a.indices, in_order({a.rows, a.count}));
}
static i64 topk_units(const Topk& a) { return a.rows; }
static i64 topk_scratch(const Topk& a) { return a.size * 4; }
// In order, as aten::topk: of equal ones the first; what is no number is above all.
static void topk(const Topk& a, Worker& w, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const float* x = a.x + begin * a.size;
    int32_t* ids = reinterpret_cast<int32_t*>(w.scratch);
    auto before = [&](int32_t i, int32_t j) {
      const bool strange = x[i] != x[i], other = x[j] != x[j];
      if (strange || other) return strange != other ? strange == (a.largest != 0) : i < j;
      return x[i] != x[j] ? (x[i] > x[j]) == (a.largest != 0) : i < j;
    };
    for (i64 i = 0; i < a.size; i++) ids[i] = static_cast<int32_t>(i);
    std::partial_sort(ids, ids + a.count, ids + a.size, before);
    for (i64 i = 0; i < a.count; i++) {
      a.values[begin * a.count + i] = x[ids[i]];
      a.indices[begin * a.count + i] = ids[i];
    }
  }
}
