// Single elements of a panel, for who wants one row of a weight.
#pragma once
#include "formats.h"
#include "reach.h"
#include "vector.h"

INLINE float half_at(const char* p, i64 i) {
  _Float16 x;
  memcpy(&x, p + 2 * i, 2);
  return static_cast<float>(x);
}
template <int FORMAT>
INLINE float part_at(const char* p, int o) {
  if constexpr (part_bytes(FORMAT) == 32) return half_at(p, o);
  float x;
  memcpy(&x, p + 4 * o, 4);
  return x;
}

// Output o's element for input i of the group at w, without its scale: q, u - 8, or u where there are minima.
template <int FORMAT>
INLINE int integer_at(const char* w, int i, int o) {
  const char* values = w + values_at(FORMAT);
  if constexpr (FORMAT < Q4) return static_cast<int8_t>(values[i / 4 * 64 + o * 4 + i % 4]);
  const int both = static_cast<uint8_t>(values[i / 8 * 64 + o * 4 + i % 4]);
  return (i / 4 % 2 ? both >> 4 : both & 15) - (has_minima(FORMAT) ? 0 : 8);
}

template <int FORMAT>
INLINE float float_at(const char* w, i64 i, int o) {
  if constexpr (FORMAT == F32) {
    float x;
    memcpy(&x, w + (i * 16 + o) * 4, 4);
    return x;
  } else if constexpr (FORMAT == F16) {
    return half_at(w, i * 16 + o);
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
      out[i] = float_at<FORMAT>(w, i, o);
    } else {
      const char* group = w + i / GROUP * group_bytes(FORMAT);
      const float x = static_cast<float>(integer_at<FORMAT>(group, i % GROUP, o)) * part_at<FORMAT>(group, o);
      out[i] = has_minima(FORMAT) ? x + part_at<FORMAT>(group + part_bytes(FORMAT), o) : x;
    }
  }
}
static inline void panel_row(i64 format, const char* w, int o, float* out, i64 k) {
  switch (format) {
#define CASE(f) case f: return panel_row<f>(w, o, out, k);
    CASE(F32) CASE(BF16) CASE(F16) CASE(Q8) CASE(Q8F) CASE(Q4) CASE(Q4M) CASE(Q4F)
#undef CASE
  }
}
