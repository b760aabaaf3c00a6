// out[o, i, n] = x[o, 0, n] + ... + x[o, i, n], as aten::cumsum: in double, as PyTorch does on CPUs, or in integers.
#pragma once
#include <cstring>

#include "reach.h"

struct Cumsum {
  const void* x;
  void* out;
  i64 outer, size, inner;
  i64 element, whole;  // whole: out is of int64, else of float32
};
#define CUMSUM "x:p out:w outer:i size:i inner:i element:float32|int64|int32|bool whole:i"

constexpr ElementType TOTALLED[] = {{"float32", 4}, {"int64", 8}, {"int32", 4}, {"bool", 1}};
static void cumsum_reach(const Cumsum& a, Reach& reach) {
  if (!reach.need(!a.whole || a.element != 0, "floats whose sums are floats")) return;
  reach.operand(a.x, in_order({a.outer, a.size, a.inner}), TOTALLED[a.element]);
  reach.result(a.out, in_order({a.outer, a.size, a.inner}), a.whole ? type_of<i64>() : type_of<float>());
}

static i64 cumsum_units(const Cumsum& a) { return a.outer * a.inner; }

template <class From, class To, class Total>
static inline void totals(const Cumsum& a, i64 start) {
  const From* x = static_cast<const From*>(a.x) + start;
  To* out = static_cast<To*>(a.out) + start;
  Total total = 0;
  for (i64 i = 0; i < a.size; i++) {
    total += static_cast<Total>(x[i * a.inner]);
    out[i * a.inner] = static_cast<To>(total);
  }
}

static void cumsum(const Cumsum& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const i64 start = begin / a.inner * a.size * a.inner + begin % a.inner;
    switch (a.element * 2 + (a.whole ? 1 : 0)) {
      case 0: totals<float, float, double>(a, start); break;
      case 2: totals<i64, float, double>(a, start); break;
      case 3: totals<i64, uint64_t, uint64_t>(a, start); break;  // without a sign, what is too large wraps around
      case 4: totals<int32_t, float, double>(a, start); break;
      case 5: totals<int32_t, i64, i64>(a, start); break;
      case 6: totals<uint8_t, float, double>(a, start); break;
      case 7: totals<uint8_t, i64, i64>(a, start); break;
    }
  }
}
