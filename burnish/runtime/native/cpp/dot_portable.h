// In plain C++, for processors that have no file of their own.
#pragma once

#include "element.h"

template <int FORMAT, bool ROUNDED>
struct Dot {
  static constexpr int MOST = 4, ADDED = 0;
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
      const i64 size = FORMAT == F8B ? SCALED : k;
      for (i64 first = 0; first < k; first += size) {
        float d = 0.0f;
        for (i64 i = first; i < k && i < first + size; i++)
          d += float_at<FORMAT>(w, i, o) * x[(i / GROUP * M + m) * GROUP + i % GROUP];
        c += d * scale_of<FORMAT>(w, first, o);
      }
    } else {
      constexpr int RUNS = runs(FORMAT), RUN = GROUP / RUNS;
      for (i64 at = 0; at < blocks(k, GROUP) * RUNS; at++) {  // runs of inputs with one scale
        const i64 g = at / RUNS;
        const int first = at % RUNS * RUN;
        float d = 0.0f;
        if constexpr (ROUNDED) {
          const int8_t* q = rows.q + row * rows.stride + (g * M + m) * GROUP;
          int total = 0;
          for (int i = first; i < first + RUN; i++) total += integer_at<FORMAT>(w, g, i, o) * q[i];
          d = static_cast<float>(total) * rows.scales[row * rows.groups + g * M + m];
        } else {
          for (int i = first; i < first + RUN; i++)
            d += static_cast<float>(integer_at<FORMAT>(w, g, i, o)) * x[(g * M + m) * GROUP + i];
        }
        c += d * part_at<FORMAT>(w, g, 0, first, o);
        if constexpr (has_minima(FORMAT)) c += part_at<FORMAT>(w, g, 1, first, o) * rows.sums[row * rows.groups * RUNS + at * M + m];
      }
    }
    return c;
  }
};
