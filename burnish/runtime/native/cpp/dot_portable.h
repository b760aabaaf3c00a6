// In plain C++, for processors that have no file of their own.
#pragma once

#include "element.h"

template <int FORMAT, bool ROUNDED>
struct Dot {
  static constexpr int MOST = 4;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    for (int m = 0; m < M; m++)
      for (int o = 0; o < PANEL; o++) out[m * PANEL + o] = one<M>(w, rows, row, m, o, k);
  }

  template <int M>
  static float one(const char* w, const Rows& rows, i64 row, int m, int o, i64 k) {
    const float* x = rows.x + row * rows.stride;
    float c = 0.0f;
    if constexpr (!is_integer(FORMAT)) {
      for (i64 i = 0; i < k; i++) c += float_at<FORMAT>(w, i, o) * x[(i / GROUP * M + m) * GROUP + i % GROUP];
    } else {
      for (i64 g = 0; g < blocks(k, GROUP); g++, w += group_bytes(FORMAT)) {
        float d = 0.0f;
        if constexpr (ROUNDED) {
          const int8_t* q = rows.q + row * rows.stride + (g * M + m) * GROUP;
          int total = 0;
          for (int i = 0; i < GROUP; i++) total += integer_at<FORMAT>(w, i, o) * q[i];
          d = static_cast<float>(total) * rows.scales[row * rows.groups + g * M + m];
        } else {
          for (int i = 0; i < GROUP; i++) d += static_cast<float>(integer_at<FORMAT>(w, i, o)) * x[(g * M + m) * GROUP + i];
        }
        c += d * part_at<FORMAT>(w, o);
        if constexpr (has_minima(FORMAT)) c += part_at<FORMAT>(w + part_bytes(FORMAT), o) * rows.sums[row * rows.groups + g * M + m];
      }
    }
    return c;
  }
};
