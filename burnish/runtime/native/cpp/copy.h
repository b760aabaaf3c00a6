// out = x, whatever the strides of both: elements of 1, 2, 4 or 8 bytes, as they are.
#pragma once
#include <cstring>

#include "strided.h"

struct Copy {
  char* out;
  const char* x;
  i64 bytes;
  i64 size[AXES], out_stride[AXES], x_stride[AXES];
};
#define COPY "out:w x:p bytes:i" SIX("size") SIX("out_stride") SIX("x_stride")

static void copy_reach(const Copy& a, Reach& reach) {
  if (!reach.element(a.bytes)) return;
  reach.result(a.out, axes_of(a.size, a.out_stride), {nullptr, a.bytes});
  reach.operand(a.x, axes_of(a.size, a.x_stride), {nullptr, a.bytes});
}
static Blocks<2> copy_blocks(const Copy& a) { return Blocks<2>(Space<2>(a.size, {a.out_stride, a.x_stride})); }
static i64 copy_units(const Copy& a) { return copy_blocks(a).count; }

template <class T>
static void copy_row(void* out, const void* x, i64 length, i64 out_stride, i64 x_stride) {
  T* to = static_cast<T*>(out);
  const T* from = static_cast<const T*>(x);
  if (out_stride == 1 && x_stride == 1) memcpy(to, from, length * sizeof(T));
  else for (i64 i = 0; i < length; i++) to[i * out_stride] = from[i * x_stride];
}

static void copy(const Copy& a, Worker&, i64 begin, i64 end) {
  const Blocks<2> all = copy_blocks(a);
  const int last = all.space.axes - 1;
  const i64 out_stride = all.space.stride[0][last], x_stride = all.space.stride[1][last];
  BlockOf<2> block;
  for (; begin < end; begin++) {
    block.set(all, begin);
    for (i64 r = 0; r < block.rows; r++) {
      char* out = a.out + block.at[0][r] * a.bytes;
      const char* x = a.x + block.at[1][r] * a.bytes;
      switch (a.bytes) {
        case 1: copy_row<uint8_t>(out, x, block.length, out_stride, x_stride); break;
        case 2: copy_row<uint16_t>(out, x, block.length, out_stride, x_stride); break;
        case 4: copy_row<uint32_t>(out, x, block.length, out_stride, x_stride); break;
        default: copy_row<uint64_t>(out, x, block.length, out_stride, x_stride);
      }
    }
  }
}

// out[b, i] = position[b] + i.
struct Positions {
  i64* out;
  const i64* position;  // null: zeros
  i64 batch, tokens;
};
#define POSITIONS "out:w position:p batch:i tokens:i"

static void positions_reach(const Positions& a, Reach& reach) {
  reach.result(a.out, in_order({a.batch, a.tokens}));
  reach.optional(a.position, in_order({a.batch}));
}
static i64 positions_units(const Positions& a) { return a.batch; }
static void positions(const Positions& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++)
    for (i64 i = 0; i < a.tokens; i++) a.out[begin * a.tokens + i] = wrapping_sum(a.position ? a.position[begin] : 0, i);
}
