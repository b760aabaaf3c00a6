// softmax(cap(scale * query @ key^T) + bias) @ value over the visible keys, as burnish::attention, and of codes as
// burnish::coded_attention: their scales are those of slots, which scores and probabilities take, or of channels, which
// queries and results take.
//
// A unit is a tile of queries that read one KV head: some tokens, and all heads of the group. Keys come in chunks of
// CHUNK slots with a running softmax (Milakov and Gimelshein, 2018; Dao et al., 2022). Where `parts` is given, each
// chunk is a unit of its own (Dao et al., 2023, for decoding): whoever finishes a tile's last one joins them, in the
// order of the chunks, so that the result does not depend on who did what.
#pragma once
#include <algorithm>

#include "attention_tile.h"

enum Mask { ALL, CAUSAL, WINDOW, IN_CHUNK };
#define MASKS "none|causal|window|chunk"

struct Attention {
  const float* query;
  const void *key, *value;
  float* out;
  const i64* position;
  const float *bias, *sinks, *slopes;
  const i64* key_positions;
  const float *key_scales, *value_scales;  // of codes: [batch][kv_heads][capacity], or [batch][kv_heads][channels]
  float* parts;       // [batch][kv_heads][chunks of capacity][tile rows][value_size + 2], or null
  int32_t* finished;  // [batch][kv_heads], zero before and after
  i64 batch, heads, kv_heads, tokens, capacity, key_size, value_size;
  i64 query_stride_b, query_stride_h, query_stride_s, key_stride_b, key_stride_h, key_stride_t;
  i64 value_stride_b, value_stride_h, value_stride_t, out_stride_b, out_stride_h, out_stride_s;
  i64 bias_stride_b, bias_stride_h, bias_stride_s, bias_stride_t, key_positions_stride_b;
  i64 key_scales_stride_b, key_scales_stride_h, key_scales_step, value_scales_stride_b, value_scales_stride_h, value_scales_step;
  i64 of_channels;
  double scale;
  i64 mask, extent;
  double softcap;
  i64 element;
};
#define ATTENTION \
  "query:p key:p value:p out:w position:p bias:p sinks:p slopes:p key_positions:p key_scales:p value_scales:p parts:w " \
  "finished:w batch:i heads:i " \
  "kv_heads:i tokens:i capacity:i key_size:i value_size:i query_stride_b:i query_stride_h:i query_stride_s:i " \
  "key_stride_b:i key_stride_h:i key_stride_t:i value_stride_b:i value_stride_h:i value_stride_t:i out_stride_b:i " \
  "out_stride_h:i out_stride_s:i bias_stride_b:i bias_stride_h:i bias_stride_s:i bias_stride_t:i " \
  "key_positions_stride_b:i key_scales_stride_b:i key_scales_stride_h:i key_scales_step:i value_scales_stride_b:i " \
  "value_scales_stride_h:i value_scales_step:i of_channels:i scale:f mask:" MASKS " extent:i softcap:f " \
  "element:" ELEMENTS_OR_CODES

constexpr i64 TILE_ROWS = 192;  // of many queries: keys are turned over once for all of them

// Tokens of a tile: all of them where chunks are apart.
static inline i64 tile_tokens(const Attention& a) {
  if (a.parts) return a.tokens;
  const i64 group = a.heads / a.kv_heads, most = group >= TILE_ROWS ? 1 : TILE_ROWS / group;
  return a.tokens < most ? a.tokens : most;
}

// The slots that tokens [first, last) of a row may see: a stretch, of which single ones may still be hidden.
struct Stretch {
  i64 begin, end;
  i64 chunks() const { return end > begin ? blocks(end, CHUNK) - begin / CHUNK : 0; }
};
// Where a row's tokens begin; of places that no cache has one that is far from all.
static inline i64 before_row(const Attention& a, i64 row) {
  return a.position ? std::clamp(a.position[row], -LARGEST_SIZE, LARGEST_SIZE) : 0;
}
static inline Stretch visible(const Attention& a, i64 row, i64 first, i64 last) {
  if (a.mask == ALL || a.key_positions) return {0, a.capacity};
  const i64 before = before_row(a, row), start = before + first;
  i64 end = before + last, begin = 0;
  if (a.mask == WINDOW) begin = start - a.extent + 1;
  if (a.mask == IN_CHUNK) begin = start / a.extent * a.extent;
  return {begin < 0 ? 0 : begin, end < a.capacity ? end : a.capacity};
}

static i64 attention_units(const Attention& a) {
  if (!a.parts) return a.batch * a.kv_heads * (a.tokens ? blocks(a.tokens, tile_tokens(a)) : 0);
  i64 units = 0;
  for (i64 b = 0; b < a.batch; b++) units += a.kv_heads * visible(a, b, 0, a.tokens).chunks();
  return units;
}
static inline i64 tile_rows(const Attention& a) { return tile_tokens(a) * (a.heads / a.kv_heads); }
static i64 attention_scratch(const Attention& a) {
  const i64 rows = padded(tile_rows(a), QUERIES), value = padded(a.value_size, LANES), key = padded(a.key_size, LANES);
  return 4 * (rows * (key + value + CHUNK) + 2 * padded(rows, LANES) + CHUNK * std::max(key, value)) + 8 * 64;
}

static void attention_reach(const Attention& a, Reach& reach) {
  if (!reach.sizes({a.batch, a.heads, a.kv_heads, a.tokens, a.capacity, a.key_size, a.value_size, a.extent})) return;
  if (!reach.need(a.kv_heads > 0 && a.heads > 0 && a.heads % a.kv_heads == 0, "kv_heads that heads can be shared among")) return;
  reach.need(a.extent > 0 || (a.mask != WINDOW && a.mask != IN_CHUNK), "extent above 0");
  const i64 group = a.heads / a.kv_heads;
  const ElementType type = ELEMENT_TYPES[a.element];
  reach.operand(a.query, {{a.batch, a.query_stride_b}, {a.heads, a.query_stride_h}, {a.tokens, a.query_stride_s}, {a.key_size, 1}});
  reach.operand(a.key, {{a.batch, a.key_stride_b}, {a.kv_heads, a.key_stride_h}, {a.capacity, a.key_stride_t}, {a.key_size, 1}}, type);
  reach.operand(a.value, {{a.batch, a.value_stride_b}, {a.kv_heads, a.value_stride_h}, {a.capacity, a.value_stride_t}, {a.value_size, 1}}, type);
  reach.result(a.out, {{a.batch, a.out_stride_b}, {a.heads, a.out_stride_h}, {a.tokens, a.out_stride_s}, {a.value_size, 1}});
  reach.optional(a.position, in_order({a.batch}));
  reach.optional(a.bias, {{a.batch, a.bias_stride_b}, {a.heads, a.bias_stride_h}, {a.tokens, a.bias_stride_s}, {a.capacity, a.bias_stride_t}});
  reach.optional(a.sinks, in_order({a.heads}));
  reach.optional(a.slopes, in_order({a.heads}));
  reach.optional(a.key_positions, {{a.batch, a.key_positions_stride_b}, {a.capacity, 1}});
  reach.need(!is_code(a.element) || (a.key_scales && a.value_scales), "scales, which codes have");
  const i64 scaled[] = {a.of_channels ? a.key_size : a.capacity, a.of_channels ? a.value_size : a.capacity};
  reach.optional(a.key_scales, {{a.batch, a.key_scales_stride_b}, {a.kv_heads, a.key_scales_stride_h}, {scaled[0], a.key_scales_step}});
  reach.optional(a.value_scales, {{a.batch, a.value_scales_stride_b}, {a.kv_heads, a.value_scales_stride_h}, {scaled[1], a.value_scales_step}});
  reach.optional(a.parts, in_order({a.batch, a.kv_heads, blocks(a.capacity, CHUNK), a.tokens, group, a.value_size + 2}));
  if (a.parts || a.finished) reach.result(a.finished, in_order({a.batch, a.kv_heads}));
}

// The scales of a row's keys and values for one KV head; null of floats.
static inline const float* key_scales(const Attention& a, i64 b, i64 head) {
  return a.key_scales ? a.key_scales + b * a.key_scales_stride_b + head * a.key_scales_stride_h : nullptr;
}
static inline const float* value_scales(const Attention& a, i64 b, i64 head) {
  return a.value_scales ? a.value_scales + b * a.value_scales_stride_b + head * a.value_scales_stride_h : nullptr;
}

static inline Tile make_tile(const Attention& a, Worker& w, i64 b, i64 head, i64 first, i64 tokens) {
  Tile t;
  t.b = b, t.head = head, t.first = first, t.tokens = tokens, t.group = a.heads / a.kv_heads;
  t.rows = tokens * t.group, t.filled = padded(t.rows, QUERIES);
  t.key_size = padded(a.key_size, LANES), t.value_size = padded(a.value_size, LANES);
  Scratch scratch = {w.scratch};
  t.query = scratch.take<float>(t.filled * t.key_size), t.accumulated = scratch.take<float>(t.filled * t.value_size);
  t.most = scratch.take<float>(t.filled), t.total = scratch.take<float>(t.filled);
  t.scores = scratch.take<float>(t.filled * CHUNK), t.keys = t.widened = scratch.take<float>(CHUNK * std::max(t.key_size, t.value_size));
  const float scale = static_cast<float>(a.scale);
  const float* channels = a.of_channels ? key_scales(a, b, head) : nullptr;
  memset(t.query, 0, t.filled * t.key_size * 4);
  memset(t.accumulated, 0, t.filled * t.value_size * 4);
  auto query = [&](i64 r) INLINE_LAMBDA {
    return a.query + b * a.query_stride_b + (head * t.group + r % t.group) * a.query_stride_h + (first + r / t.group) * a.query_stride_s;
  };
  for (i64 r = 0; r < t.rows; r++) t.most[r] = -__builtin_inff(), t.total[r] = 0.0f;
  const i64 whole = channels ? 0 : a.key_size / LANES * LANES;  // what goes by registers
  if (t.few())
    for (i64 r = 0; r < t.rows; r++)
      for (i64 i = 0; i < whole; i += LANES) store(t.query + r * t.key_size + i, load(query(r) + i) * scale);
  else
    for (i64 row = 0; row < t.rows; row += QUERIES)
      for (i64 i = 0; i < whole; i += LANES) {
        V x[LANES];
        each<LANES>([&](auto n) INLINE_LAMBDA { x[n] = n < QUERIES && row + n < t.rows ? load(query(row + n) + i) * scale : V{}; });
        turn_over(x);
        each<LANES>([&](auto n) INLINE_LAMBDA { memcpy(t.query + row * t.key_size + (i + n) * QUERIES, &x[n], 4 * QUERIES); });
      }
  for (i64 r = 0; r < t.rows; r++) {
    const float* from = query(r);
    float* to = t.few() ? t.query + r * t.key_size : t.query + r / QUERIES * QUERIES * t.key_size + r % QUERIES;
    const i64 step = t.few() ? 1 : QUERIES;
    for (i64 i = whole; i < a.key_size; i++) to[i * step] = from[i] * scale * (channels ? channels[i * a.key_scales_step] : 1.0f);
  }
  return t;
}

// Slots [begin, end), within one chunk, of a tile.
template <int ELEMENT>
static inline void attend(const Attention& a, const Tile& t, i64 begin, i64 end) {
  using Type = typename Elements<ELEMENT>::Type;
  const i64 count = end - begin;
  const Type* keys = static_cast<const Type*>(a.key) + t.b * a.key_stride_b + t.head * a.key_stride_h + begin * a.key_stride_t;
  const Type* values = static_cast<const Type*>(a.value) + t.b * a.value_stride_b + t.head * a.value_stride_h + begin * a.value_stride_t;
  if (t.few()) score_few<ELEMENT>(t, keys, a.key_stride_t, a.key_size, count);
  else score_many<ELEMENT>(t, keys, a.key_stride_t, a.key_size, count);
  const i64 before = before_row(a, t.b), filled = padded(count, LANES);
  const i64* held = a.key_positions ? a.key_positions + t.b * a.key_positions_stride_b + begin : nullptr;
  const bool of_slots = is_code(ELEMENT) && !a.of_channels;
  float by_key[CHUNK] = {}, by_value[CHUNK] = {};  // side by side for all rows
  if (of_slots) {
    const float *of_keys = key_scales(a, t.b, t.head), *of_values = value_scales(a, t.b, t.head);
    for (i64 i = 0; i < count; i++) {
      by_key[i] = of_keys[(begin + i) * a.key_scales_step];
      by_value[i] = of_values[(begin + i) * a.value_scales_step];
    }
  }
  for (i64 r = 0; r < t.rows; r++) {
    float* s = t.scores + r * CHUNK;
    const i64 token = t.first + r / t.group, head = t.head * t.group + r % t.group, at = before + token;
    if (of_slots)
      for (i64 i = 0; i < filled; i += LANES) store(s + i, load(s + i) * load(by_key + i));
    if (a.softcap > 0.0) {
      const float cap = static_cast<float>(a.softcap);
      for (i64 i = 0; i < filled; i += LANES) store(s + i, tanh(load(s + i) / cap) * cap);
    }
    if (a.slopes)
      for (i64 i = 0; i < count; i++) s[i] += a.slopes[head] * static_cast<float>((held ? std::clamp(held[i], -LARGEST_SIZE, LARGEST_SIZE) : begin + i) - at);
    if (a.bias) {
      const float* bias = a.bias + t.b * a.bias_stride_b + head * a.bias_stride_h + token * a.bias_stride_s + begin * a.bias_stride_t;
      for (i64 i = 0; i < count; i++) s[i] += bias[i * a.bias_stride_t];
    }
    auto hide = [&](i64 i) { s[i] = -__builtin_inff(); };
    if (held) {
      for (i64 i = 0; i < count; i++) {
        const i64 p = held[i];
        const bool seen = a.mask == ALL || (p >= 0 && p <= at && (a.mask != WINDOW || at - p < a.extent) && (a.mask != IN_CHUNK || at / a.extent == p / a.extent));
        if (!seen) hide(i);
      }
    } else if (a.mask != ALL) {
      const i64 least = a.mask == WINDOW ? at - a.extent + 1 : a.mask == IN_CHUNK ? at / a.extent * a.extent : 0;
      for (i64 i = 0; i < count && begin + i < least; i++) hide(i);
      for (i64 i = at + 1 > begin ? at + 1 - begin : 0; i < count; i++) hide(i);
    }
    for (i64 i = count; i < filled; i++) hide(i);
    V most = splat(t.most[r]);
    for (i64 i = 0; i < filled; i += LANES) most = maximum(load(s + i), most);
    const float now = greatest(most), shift = now == -__builtin_inff() ? 0.0f : now;  // of no key yet, nothing
    const float rescale = exp(splat(t.most[r] - shift))[0];
    V total = {};
    for (i64 i = 0; i < filled; i += LANES) {
      const V p = exp(load(s + i) - shift);
      total += p;
      store(s + i, of_slots ? p * load(by_value + i) : p);
    }
    t.total[r] = t.total[r] * rescale + sum(total);
    t.most[r] = now;
    if (rescale != 1.0f)
      for (i64 d = 0; d < t.value_size; d += LANES) store(t.accumulated + r * t.value_size + d, load(t.accumulated + r * t.value_size + d) * rescale);
  }
  weigh<ELEMENT>(t, values, a.value_stride_t, a.value_size, count);
}

static inline void attend(const Attention& a, const Tile& t, i64 begin, i64 end) {
  if (a.element == FLOAT32) attend<FLOAT32>(a, t, begin, end);
  else if (a.element == BFLOAT16) attend<BFLOAT16>(a, t, begin, end);
  else if (a.element == FLOAT16) attend<FLOAT16>(a, t, begin, end);
  else if (a.element == INT8) attend<INT8>(a, t, begin, end);
  else attend<FP8>(a, t, begin, end);
}

// One row's result. A sink takes probability and gives nothing; who sees no key gets what the softmax of nothing is.
static inline void give(const Attention& a, i64 b, i64 head, i64 token, const float* accumulated, float most, float total) {
  float rescale = 1.0f;
  if (a.sinks) {
    const float now = most > a.sinks[head] ? most : a.sinks[head];
    rescale = exp(splat(most - now))[0];
    total = total * rescale + exp(splat(a.sinks[head] - now))[0];
  }
  float* out = a.out + b * a.out_stride_b + head * a.out_stride_h + token * a.out_stride_s;
  const float* channels = a.of_channels ? value_scales(a, b, head / (a.heads / a.kv_heads)) : nullptr;
  i64 d = 0;
  for (; !channels && d + LANES <= a.value_size; d += LANES) store(out + d, load(accumulated + d) * rescale / total);
  for (; d < a.value_size; d++)
    out[d] = accumulated[d] * rescale / total * (channels ? channels[d * a.value_scales_step] : 1.0f);
}

// The chunk that a unit is, and where its part and the tile's other parts are.
static void attention_chunk(const Attention& a, Worker& w, i64 unit) {
  i64 b = 0;
  Stretch seen = visible(a, 0, 0, a.tokens);
  while (unit >= a.kv_heads * seen.chunks()) unit -= a.kv_heads * seen.chunks(), seen = visible(a, ++b, 0, a.tokens);
  const i64 chunks = seen.chunks(), head = unit / chunks, chunk = unit % chunks;
  const i64 start = (seen.begin / CHUNK + chunk) * CHUNK, begin = start < seen.begin ? seen.begin : start;
  const Tile t = make_tile(a, w, b, head, 0, a.tokens);
  attend(a, t, begin, start + CHUNK < seen.end ? start + CHUNK : seen.end);
  const i64 width = a.value_size + 2, tile = b * a.kv_heads + head;
  float* parts = a.parts + tile * blocks(a.capacity, CHUNK) * t.rows * width;
  for (i64 r = 0; r < t.rows; r++) {
    float* part = parts + (chunk * t.rows + r) * width;
    memcpy(part, t.accumulated + r * t.value_size, a.value_size * 4);
    part[a.value_size] = t.most[r], part[a.value_size + 1] = t.total[r];
  }
  if (__atomic_fetch_add(a.finished + tile, 1, __ATOMIC_ACQ_REL) != chunks - 1) return;
  __atomic_store_n(a.finished + tile, 0, __ATOMIC_RELAXED);
  for (i64 r = 0; r < t.rows; r++) {
    float most = -__builtin_inff(), total = 0.0f;
    for (i64 c = 0; c < chunks; c++) {
      const float theirs = parts[(c * t.rows + r) * width + a.value_size];
      if (theirs > most) most = theirs;
    }
    const float shift = most == -__builtin_inff() ? 0.0f : most;
    float* sums = t.accumulated;
    for (i64 d = 0; d < a.value_size; d++) sums[d] = 0.0f;
    for (i64 c = 0; c < chunks; c++) {
      const float* part = parts + (c * t.rows + r) * width;
      const float rescale = exp(splat(part[a.value_size] - shift))[0];
      total += part[a.value_size + 1] * rescale;
      for (i64 d = 0; d < a.value_size; d++) sums[d] += part[d] * rescale;
    }
    give(a, b, head * t.group + r % t.group, r / t.group, sums, most, total);
  }
}

static void attention(const Attention& a, Worker& w, i64 begin, i64 end) {
  if (a.parts) {
    for (; begin < end; begin++) attention_chunk(a, w, begin);
    return;
  }
  const i64 most = tile_tokens(a), tiles = blocks(a.tokens, most);
  for (; begin < end; begin++) {
    // The last tokens of a causal row see the most: they come first.
    const i64 tile = tiles - 1 - begin / (a.batch * a.kv_heads), row = begin % (a.batch * a.kv_heads);
    const i64 first = tile * most, tokens = a.tokens - first < most ? a.tokens - first : most;
    const Tile t = make_tile(a, w, row / a.kv_heads, row % a.kv_heads, first, tokens);
    const Stretch seen = visible(a, t.b, first, first + tokens);
    for (i64 at = seen.begin; at < seen.end;) {
      const i64 next = (at / CHUNK + 1) * CHUNK;
      attend(a, t, at, next < seen.end ? next : seen.end);
      at = next;
    }
    for (i64 r = 0; r < t.rows; r++)
      give(a, t.b, t.head * t.group + r % t.group, first + r / t.group, t.accumulated + r * t.value_size, t.most[r], t.total[r]);
  }
}
