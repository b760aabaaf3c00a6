// One panel of a weight times M rows: 16 outputs each. Everything is added in an order that does not depend on M, so
// that a row's numbers do not depend on how many others there are.
#pragma once
#include "rows.h"

constexpr i64 AHEAD = 1024;  // bytes of a weight that are asked for before they are wanted
INLINE void ask(const char* p) { __builtin_prefetch(p + AHEAD, 0, 3); }

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "dot_avx512.h"
#include "dot_floats.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "dot_avx2.h"
#include "dot_floats.h"
#elif defined(__aarch64__)
#include "dot_neon.h"
#include "dot_floats.h"
#else
#include "dot_portable.h"
#endif

// A panel's products with rows [0, count) into out[count][16].
template <int FORMAT, bool ROUNDED>
static __attribute__((noinline)) void panel_product(const char* panel, const Rows& rows, i64 count, i64 k, float* out) {
  using D = Dot<FORMAT, ROUNDED>;
  i64 row = 0;
  for (; count - row >= D::MOST; row += D::MOST) D::template run<D::MOST>(panel, rows, row, k, out + row * PANEL);
  switch (count - row) {
#define CASE(m) \
  case m: if constexpr (m < D::MOST) D::template run<m>(panel, rows, row, k, out + row * PANEL); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
#undef CASE
  }
}

#if defined(__AMX_INT8__)
#include "dot_amx.h"
#endif

// How a panel of a format is multiplied, with which rows.
struct Product {
  void (*panel)(const char* panel, const Rows& rows, i64 count, i64 k, float* out);
  Reading reading;
};

template <int FORMAT, bool ROUNDED>
constexpr Product product() {
#if defined(__AMX_INT8__)
  if constexpr (ROUNDED && runs(FORMAT) == 1) return {ByTiles<FORMAT>::panel, {ByTiles<FORMAT>::TILING, true, Dot<FORMAT, true>::ADDED}};
#endif
  constexpr i64 most = Dot<FORMAT, ROUNDED>::MOST;
  constexpr int32_t added = [] {
    if constexpr (ROUNDED && is_integer(FORMAT)) return Dot<FORMAT, true>::ADDED;
    return 0;
  }();
  return {panel_product<FORMAT, ROUNDED>, {{most, most}, ROUNDED, added}};
}

// `may_round`: activations may be rounded, if that saves time.
static inline Product product_of(i64 format, bool may_round) {
#if defined(__AVX512VNNI__)
  if (format == BF16 && may_round && MULTIPLIES_BF16) return product<BF16, true>();
#endif
  switch (format) {
    case BF16: return product<BF16, false>();
    case F16: return product<F16, false>();
    case F8: return product<F8, false>();
    case F8B: return product<F8B, false>();
#define CASE(f) case f: return may_round ? product<f, true>() : product<f, false>();
    EACH_OF_INTEGERS(CASE)
#undef CASE
    default: return product<F32, false>();
  }
}
