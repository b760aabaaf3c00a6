// In plain C++, for processors that have no file of their own.
#pragma once

#include "element.h"

template <int FORMAT>
INLINE V part(const char* p) {
  V x;
  for (int i = 0; i < LANES; i++) x[i] = part_at<FORMAT>(p, i);
  return x;
}

template <int FORMAT, bool ROUNDED>
struct Dot {
  static constexpr int MOST = 4;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, V* out) {
    for (int m = 0; m < M; m++) out[m] = one<M>(w, rows, row, m, k);
  }

  template <int M>
  static V one(const char* w, const Rows& rows, i64 row, int m, i64 k) {
    const float* x = rows.x + row * rows.stride;
    V c = {};
    if constexpr (!is_integer(FORMAT)) {
      for (i64 i = 0; i < k; i++)
        for (int o = 0; o < LANES; o++) c[o] += float_at<FORMAT>(w, i, o) * x[i * M + m];
      return c;
    }
    for (i64 g = 0; g < blocks(k, GROUP); g++, w += group_bytes(FORMAT)) {
      V d = {};
      for (int o = 0; o < LANES; o++) {
        if constexpr (ROUNDED) {
          int total = 0;
          for (int i = 0; i < GROUP; i++) total += integer_at<FORMAT>(w, i, o) * rows.q[row * rows.stride + ((g * GROUP + i) / 4 * M + m) * 4 + i % 4];
          d[o] = static_cast<float>(total) * rows.scales[row * rows.groups + g * M + m];
        } else {
          for (int i = 0; i < GROUP; i++) d[o] += static_cast<float>(integer_at<FORMAT>(w, i, o)) * x[(g * GROUP + i) * M + m];
        }
      }
      c += d * part<FORMAT>(w);
      if constexpr (has_minima(FORMAT)) c += part<FORMAT>(w + part_bytes(FORMAT)) * rows.sums[row * rows.groups + g * M + m];
    }
    return c;
  }
};
