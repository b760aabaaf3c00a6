// New tokens into the memory of a state, as burnish::cache_write and ring_write, and what a ring holds.
#pragma once
#include <algorithm>
#include <cstring>

#include "reach.h"

// state[b, h, slot] = fresh[b, h, s], of elements of any type: strides and sizes are in bytes.
struct StateWrite {
  const char* fresh;
  char* state;
  const i64* position;
  i64 batch, heads, tokens, capacity, bytes;  // of a token and head
  i64 fresh_stride_b, fresh_stride_h, fresh_stride_s;
  i64 ring;
};
#define STATE_WRITE \
  "fresh:p state:w position:p batch:i heads:i tokens:i capacity:i bytes:i fresh_stride_b:i fresh_stride_h:i fresh_stride_s:i ring:i"

static void state_write_reach(const StateWrite& a, Reach& reach) {
  if (!reach.need(!a.ring || a.capacity > 0, "capacity above 0")) return;
  reach.operand(a.fresh, {{a.batch, a.fresh_stride_b}, {a.heads, a.fresh_stride_h}, {a.tokens, a.fresh_stride_s}, {a.bytes, 1}}, ANY_BYTE);
  reach.result(a.state, in_order({a.batch, a.heads, a.capacity, a.bytes}), ANY_BYTE);
  reach.operand(a.position, in_order({a.batch}));
}

constexpr i64 remainder_of(i64 x, i64 size) { return (x % size + size) % size; }

static i64 state_write_units(const StateWrite& a) { return a.batch * a.heads * a.tokens; }
static void state_write(const StateWrite& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const i64 s = begin % a.tokens, head = begin / a.tokens % a.heads, b = begin / (a.tokens * a.heads);
    if (a.ring && s < a.tokens - a.capacity) continue;  // a later token of this step takes its slot
    const i64 position = a.position[b];
    const i64 slot = a.ring ? (remainder_of(position, a.capacity) + s) % a.capacity : std::clamp(position, -a.tokens, a.capacity) + s;
    if (slot < 0 || slot >= a.capacity) continue;  // the session made room; nothing is written outside of it
    memcpy(a.state + ((b * a.heads + head) * a.capacity + slot) * a.bytes,
           a.fresh + b * a.fresh_stride_b + head * a.fresh_stride_h + s * a.fresh_stride_s, a.bytes);
  }
}

struct RingPositions {
  const i64* position;
  i64* out;  // [batch][size + tokens]
  i64 batch, size, tokens;
};
#define RING_POSITIONS "position:p out:w batch:i size:i tokens:i"

static void ring_positions_reach(const RingPositions& a, Reach& reach) {
  if (!reach.sizes({a.size, a.tokens}) || !reach.need(a.size > 0, "size above 0")) return;
  reach.operand(a.position, in_order({a.batch}));
  reach.result(a.out, in_order({a.batch, a.size + a.tokens}));
}

static i64 ring_positions_units(const RingPositions& a) { return a.batch; }
static void ring_positions(const RingPositions& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const i64 position = a.position[begin], last = wrapping_sum(position, -1), newest = remainder_of(last, a.size);
    i64* out = a.out + begin * (a.size + a.tokens);
    for (i64 slot = 0; slot < a.size; slot++) out[slot] = wrapping_sum(last, slot - newest - (slot > newest ? a.size : 0));
    for (i64 s = 0; s < a.tokens; s++) out[a.size + s] = wrapping_sum(position, s);
  }
}
