// Elements of rows by their places, as aten::gather and aten::scatter, of any type: x[outer, size, inner].
#pragma once
#include <cstring>

#include "reach.h"

// out[o, i, n] = x[o, index[o, i, n], n]. A place that there is not gives no number, or -1: never a neighbour's element.
struct GatherPlaces {
  const char* x;
  const i64* index;
  char* out;
  i64 outer, size, inner, places, bytes;  // of an element
};
#define GATHER_PLACES "x:p index:p out:w outer:i size:i inner:i places:i bytes:i"

static void gather_places_reach(const GatherPlaces& a, Reach& reach) {
  if (!reach.element(a.bytes)) return;
  reach.operand(a.x, in_order({a.outer, a.size, a.inner}), {nullptr, a.bytes});
  reach.operand(a.index, in_order({a.outer, a.places, a.inner}));
  reach.result(a.out, in_order({a.outer, a.places, a.inner}), {nullptr, a.bytes});
}

static i64 gather_places_units(const GatherPlaces& a) { return a.outer * a.places; }

template <int BYTES>
static inline void gather_places_of(const GatherPlaces& a, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const char* x = a.x + begin / a.places * a.size * a.inner * BYTES;
    for (i64 n = 0; n < a.inner; n++) {
      const i64 at = begin * a.inner + n, place = a.index[at];
      if (place < 0 || place >= a.size) memset(a.out + at * BYTES, 0xff, BYTES);
      else memcpy(a.out + at * BYTES, x + (place * a.inner + n) * BYTES, BYTES);
    }
  }
}
static void gather_places(const GatherPlaces& a, Worker&, i64 begin, i64 end) {
  switch (a.bytes) {
#define CASE(bytes) case bytes: return gather_places_of<bytes>(a, begin, end);
    CASE(1) CASE(2) CASE(4) CASE(8)
#undef CASE
  }
}

// out = x, but out[o, index[o, i, n], n] = source[o, i, n], or `bits` where there is none. Of equal places the last
// wins; those that there are not are left out. Units are rows, so that no two threads write the same element.
struct Scatter {
  const char* x;
  const i64* index;
  const char* source;
  char* out;
  i64 outer, size, inner, places, bytes, bits;
};
#define SCATTER "x:p index:p source:p out:w outer:i size:i inner:i places:i bytes:i bits:i"

static void scatter_reach(const Scatter& a, Reach& reach) {
  if (!reach.element(a.bytes)) return;
  const Axes x = in_order({a.outer, a.size, a.inner}), places = in_order({a.outer, a.places, a.inner});
  reach.operand(a.x, x, {nullptr, a.bytes});
  reach.operand(a.index, places);
  if (a.source) reach.operand(a.source, places, {nullptr, a.bytes});
  reach.result(a.out, x, {nullptr, a.bytes});
}

static i64 scatter_units(const Scatter& a) { return a.outer; }
static void scatter(const Scatter& a, Worker&, i64 begin, i64 end) {
  const i64 row = a.size * a.inner * a.bytes;
  const char* bits = reinterpret_cast<const char*>(&a.bits);
  for (; begin < end; begin++) {
    char* out = a.out + begin * row;
    memcpy(out, a.x + begin * row, row);
    for (i64 i = 0; i < a.places * a.inner; i++) {
      const i64 at = begin * a.places * a.inner + i, place = a.index[at];
      if (place < 0 || place >= a.size) continue;
      memcpy(out + (place * a.inner + i % a.inner) * a.bytes, a.source ? a.source + at * a.bytes : bits, a.bytes);
    }
  }
}
