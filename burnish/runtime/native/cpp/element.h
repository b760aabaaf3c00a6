// Single elements of a panel, for who wants one row of a weight.
#pragma once
#include "formats.h"
#include "reach.h"
#include "vector.h"

INLINE float half_at(const char* p, i64 i) {
  Half x;
  memcpy(&x, p + 2 * i, 2);
  return static_cast<float>(x);
}

// Output o's scale (part 0) or minimum (part 1) for input i of group g of the panel at w.
template <int FORMAT>
INLINE float part_at(const char* w, i64 g, int part, int i, int o) {
  const char* p = w + scales_at(FORMAT, g, part, i * runs(FORMAT) / GROUP);
  if constexpr (has_blocks(FORMAT)) {
    const float half = half_at(w + halves_at(FORMAT, g) + part * 32, o);
    int whole = static_cast<int8_t>(p[o]);
    if constexpr (has_pairs(FORMAT)) whole = part ? -(whole >> 4 & 15) : whole & 15;
    return half * static_cast<float>(whole);
  }
  if constexpr (part_bytes(FORMAT) == 32) return half_at(p, o);
  float x;
  memcpy(&x, p + 4 * o, 4);
  return x;
}

// Output o's element for input i of group g, without its scale: q, or u where there are minima.
template <int FORMAT>
INLINE int integer_at(const char* w, i64 g, int i, int o) {
  const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
  const int step = i / 4, place = o * 4 + i % 4;
  if constexpr (bits_of(FORMAT) == 8) return static_cast<int8_t>(values[step * 64 + place]);
  if constexpr (bits_of(FORMAT) == 2) return static_cast<uint8_t>(values[step / 4 * 64 + place]) >> step % 4 * 2 & 3;
  const int both = static_cast<uint8_t>(values[step / 2 * 64 + place]);
  int u = step % 2 ? both >> 4 : both & 15;
  if constexpr (bits_of(FORMAT) > 4) {
    constexpr int ABOVE = bits_of(FORMAT) - 4;
    const int above = static_cast<uint8_t>(values[256 + step * ABOVE / 8 * 64 + place]);
    u |= (above >> step * ABOVE % 8 & ((1 << ABOVE) - 1)) << 4;
  }
  return has_minima(FORMAT) ? u : u - zero_of(FORMAT);
}

// A float8_e4m3fn has the bits of a float16 that is 2^8 times smaller, but for the second: its exponent's bias is 7, not
// 15. Smaller ones than normal are so, too, and no number does not occur. Whoever multiplies by them does so by their
// row's scale in the end, and there by 2^8.
INLINE float small_of_e4m3(const char* p) {
  const uint16_t bits = static_cast<uint16_t>(static_cast<int8_t>(*p) * 128) & 0xbfff;
  return half_at((const char*)&bits, 0);
}

// The scales of f8b for input i, which are in front of its block.
INLINE const char* scaled_block(const char* w, i64 i) { return w + i / SCALED * (64 + SCALED * 16); }

// What output o's elements of the panel at w are times: of f8 all, of f8b that for input i and those of its block.
template <int FORMAT>
INLINE float scale_of(const char* w, i64 i, int o) {
  if constexpr (FORMAT != F8 && FORMAT != F8B) return 1.0f;
  float x;
  memcpy(&x, (FORMAT == F8B ? scaled_block(w, i) : w) + 4 * o, 4);
  return x * 256.0f;
}

// Output o's element for input i, without its scale.
template <int FORMAT>
INLINE float float_at(const char* w, i64 i, int o) {
  if constexpr (FORMAT == F32) {
    float x;
    memcpy(&x, w + (i * 16 + o) * 4, 4);
    return x;
  } else if constexpr (FORMAT == F16) {
    return half_at(w, i * 16 + o);
  } else if constexpr (FORMAT == F8) {
    return small_of_e4m3(w + scales_bytes(F8) + i * 16 + o);
  } else if constexpr (FORMAT == F8B) {
    return small_of_e4m3(scaled_block(w, i) + 64 + i % SCALED * 16 + o);
  } else {
    uint16_t bits;
    memcpy(&bits, w + i / 2 * 64 + o * 4 + i % 2 * 2, 2);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
  }
}

template <int FORMAT>
static inline void panel_row(const char* w, int o, float* out, i64 k) {
  for (i64 i = 0; i < k; i++) {
    if constexpr (!is_integer(FORMAT)) {
      out[i] = float_at<FORMAT>(w, i, o) * scale_of<FORMAT>(w, i, o);
    } else {
      const i64 g = i / GROUP;
      const int in = i % GROUP;
      const float x = static_cast<float>(integer_at<FORMAT>(w, g, in, o)) * part_at<FORMAT>(w, g, 0, in, o);
      out[i] = has_minima(FORMAT) ? x + part_at<FORMAT>(w, g, 1, in, o) : x;
    }
  }
}
static inline void panel_row(i64 format, const char* w, int o, float* out, i64 k) {
  switch (format) {
#define CASE(f) case f: return panel_row<f>(w, o, out, k);
    CASE(F32) CASE(BF16) CASE(F16) CASE(F8) CASE(F8B) EACH_OF_INTEGERS(CASE)
#undef CASE
  }
}
