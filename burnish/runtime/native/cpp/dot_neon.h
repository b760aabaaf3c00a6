// NEON, which all of aarch64 has: a panel's 16 outputs are four registers. Integers are multiplied by integers with the
// dot product extension (sdot), where it is compiled for, to the same sums as without.
#pragma once
#include <arm_neon.h>

struct Quad {
  float32x4_t part[4];
};
template <class F>
INLINE Quad quad(F&& f) {
  return {f(Number<0>()), f(Number<1>()), f(Number<2>()), f(Number<3>())};
}
INLINE float32x4_t floats_at(const char* p) { return vreinterpretq_f32_u8(vld1q_u8((const uint8_t*)p)); }
INLINE Quad halves(const char* p) {
  return quad([&](auto r) INLINE_LAMBDA { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t*)p + r * 8))); });
}

// The scales (part 0) or minima (1) of a run of inputs of group g of the panel at w.
template <int FORMAT>
INLINE Quad part(const char* w, i64 g, int part, int run) {
  const char* p = w + scales_at(FORMAT, g, part, run);
  if constexpr (has_blocks(FORMAT)) {
    const Quad half = halves(w + halves_at(FORMAT, g) + part * 32);
    int8x16_t bytes = vld1q_s8((const int8_t*)p);
    if constexpr (has_pairs(FORMAT)) {
      const uint8x16_t both = vreinterpretq_u8_s8(bytes);
      bytes = part ? vnegq_s8(vreinterpretq_s8_u8(both >> 4)) : vreinterpretq_s8_u8(both & 15);
    }
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    const int32x4_t whole[4] = {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
    return quad([&](auto r) INLINE_LAMBDA { return vmulq_f32(half.part[r], vcvtq_f32_s32(whole[r])); });
  }
  if constexpr (part_bytes(FORMAT) == 32) return halves(p);
  return quad([&](auto r) INLINE_LAMBDA { return floats_at(p + r * 16); });
}

// A step of a quarter of the outputs (r) of a group's numbers: int8, of 2 to 6 bits from 0 on.
template <int FORMAT, int S>
INLINE int8x16_t step(const char* values, int r) {
  auto bytes = [&](int place) INLINE_LAMBDA { return vld1q_u8((const uint8_t*)values + place + r * 16); };
  if constexpr (bits_of(FORMAT) == 8) return vreinterpretq_s8_u8(bytes(S * 64));
  if constexpr (bits_of(FORMAT) == 2) return vreinterpretq_s8_u8(bytes(S / 4 * 64) >> S % 4 * 2 & 3);
  const uint8x16_t both = bytes(S / 2 * 64);
  uint8x16_t u = S % 2 ? both >> 4 : both & 15;
  if constexpr (bits_of(FORMAT) > 4) {
    constexpr int ABOVE = bits_of(FORMAT) - 4;  // bits above the four
    u |= (bytes(256 + S * ABOVE / 8 * 64) >> S * ABOVE % 8 & ((1 << ABOVE) - 1)) << 4;
  }
  return vreinterpretq_s8_u8(u);
}

// sum + four inputs of four outputs times four of a row: number LANE of the fours in x.
template <int LANE>
INLINE int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_laneq_s32(sum, a, x, LANE);
#else
  const int8x16_t four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), LANE));
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(four)), high = vmull_high_s8(a, four);
  return vpadalq_s16(sum, vpaddq_s16(low, high));  // pairs fit: 128 * 127 * 2
#endif
}

template <int FORMAT, bool ROUNDED>
struct Dot;

constexpr int FLOAT_ROWS = 6, FLOAT_SUMS = 6;  // that there are registers for

// Sums of floats: those of each of M rows in four registers.
template <int M>
struct Sums {
  Quad sum[M];
  INLINE void clear() {
    each<M>([&](auto m) INLINE_LAMBDA { sum[m] = quad([](auto) INLINE_LAMBDA { return vdupq_n_f32(0.0f); }); });
  }
  template <int APART = GROUP>  // the numbers of two rows
  INLINE void add(const Quad& a, const float* x) {
    each<M>([&](auto m) INLINE_LAMBDA {
      const float32x4_t all = vld1q_dup_f32(x + m * APART);
      each<4>([&](auto r) INLINE_LAMBDA {
        sum[m].part[r] = vfmaq_f32(sum[m].part[r], a.part[r], all);
        asm("" : "+w"(sum[m].part[r]));
      });
    });
  }
  INLINE void give(float* out) const {
    each<M>([&](auto m) INLINE_LAMBDA { each<4>([&](auto r) INLINE_LAMBDA { vst1q_f32(out + m * PANEL + r * 4, sum[m].part[r]); }); });
  }
};

// Input i, which is 0 or 1, of two.
template <int FORMAT>
INLINE Quad input(const char* two, int i) {
  if constexpr (FORMAT == F32) return quad([&](auto r) INLINE_LAMBDA { return floats_at(two + i * 64 + r * 16); });
  if constexpr (FORMAT == F16) return halves(two + i * 32);
  if constexpr (FORMAT == F8) {  // as small_of_e4m3
    return quad([&](auto r) INLINE_LAMBDA {
      const int8x8_t bytes = vld1_s8((const int8_t*)two + i * 16 + r / 2 * 8);
      const uint16x8_t half = vreinterpretq_u16_s16(vshll_n_s8(bytes, 7)) & 0xbfff;
      return vcvt_f32_f16(vreinterpret_f16_u16(r % 2 ? vget_high_u16(half) : vget_low_u16(half)));
    });
  }
  return quad([&](auto r) INLINE_LAMBDA {
    const uint32x4_t both = vreinterpretq_u32_f32(floats_at(two + r * 16));
    return vreinterpretq_f32_u32(i ? both & 0xffff0000u : both << 16);
  });
}

// Integers times floats: each of the four bytes of an output's dword becomes a float.
template <int FORMAT>
struct Dot<FORMAT, false> {
  static constexpr int MOST = 4, RUNS = runs(FORMAT);
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    Sums<M> c;
    c.clear();
    for (i64 g = 0; g < blocks(k, GROUP); g++) {
      const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
      const float* x = rows.x + row * rows.stride + g * GROUP * M;
      // Where there are minima, too, less the zero: they gain so many scales. Sums of u would be large, to be taken off again.
      alignas(16) int8_t apart[bits_of(FORMAT) == 8 ? 1 : GROUP * PANEL];
      const int8_t* steps = (const int8_t*)values;
      if constexpr (bits_of(FORMAT) < 8) {
        steps = apart;
        each<8>([&](auto s) INLINE_LAMBDA {
          if constexpr (decltype(s)::value % 2 == 0) ask(values + s / 2 * bits_of(FORMAT) * 16);
          each<4>([&](auto r) INLINE_LAMBDA {
            vst1q_s8(apart + s * 64 + r * 16, step<FORMAT, decltype(s)::value>(values, r) - (int8_t)zero_of(FORMAT));
          });
        });
      }
      for (int run = 0; run < RUNS; run++) {
        Sums<M> d;
        d.clear();
        for (int s = run * (8 / RUNS); s < (run + 1) * (8 / RUNS); s++) {
          if constexpr (bits_of(FORMAT) == 8) ask(values + s * 64);
          int32x4_t a[4];
          each<4>([&](auto r) INLINE_LAMBDA { a[r] = vreinterpretq_s32_s8(vld1q_s8(steps + s * 64 + r * 16)); });
          each<4>([&](auto j) INLINE_LAMBDA {
            d.add(quad([&](auto r) INLINE_LAMBDA { return vcvtq_f32_s32(a[r] << (24 - 8 * j) >> 24); }), x + s * 4 + j);
          });
        }
        const Quad scale = part<FORMAT>(w, g, 0, run);
        each<M>([&](auto m) INLINE_LAMBDA {
          each<4>([&](auto r) INLINE_LAMBDA { c.sum[m].part[r] = vfmaq_f32(c.sum[m].part[r], d.sum[m].part[r], scale.part[r]); });
        });
        if constexpr (has_minima(FORMAT)) {
          const Quad minimum = part<FORMAT>(w, g, 1, run);
          const float32x4_t zero = vdupq_n_f32(zero_of(FORMAT));
          c.template add<1>(quad([&](auto r) INLINE_LAMBDA { return vfmaq_f32(minimum.part[r], scale.part[r], zero); }),
                            rows.sums + row * rows.groups * RUNS + (g * RUNS + run) * M);
        }
      }
    }
    c.give(out);
  }
};

// Integers times integers. Of fewer than 8 bits they are taken from 0 on: the sums begin at -8, -16 or -32 times the total
// of a row's run, which is known.
template <int FORMAT>
struct Dot<FORMAT, true> {
  static constexpr int MOST = 4, RUNS = runs(FORMAT), ADDED = bits_of(FORMAT) < 8 && !has_minima(FORMAT) ? zero_of(FORMAT) : 0;
  template <int M>
  static INLINE void run(const char* w, const Rows& rows, i64 row, i64 k, float* out) {
    Sums<M> c;
    c.clear();
    const int8_t* q = rows.q + row * rows.stride;
    const float *scales = rows.scales + row * rows.groups, *sums = rows.sums + row * rows.groups * RUNS;
    const int32_t* begins = rows.begins + row * rows.groups * RUNS;
    for (i64 g = 0; g < blocks(k, GROUP); g++, q += GROUP * M) {
      const char* values = w + group_at(FORMAT, g) + values_at(FORMAT);
      each<RUNS>([&](auto run) INLINE_LAMBDA {
        const i64 at = (g * RUNS + run) * M;
        int32x4_t d[M][4];
        each<M>([&](auto m) INLINE_LAMBDA {
          each<4>([&](auto r) INLINE_LAMBDA { d[m][r] = vdupq_n_s32(ADDED ? begins[at + m] : 0); });
        });
        each<2 / RUNS>([&](auto half) INLINE_LAMBDA {  // of a row's group: 16 inputs are a register
          constexpr int FIRST = decltype(run)::value * 4 + decltype(half)::value * 4;
          int8x16_t x[M];
          each<M>([&](auto m) INLINE_LAMBDA { x[m] = vld1q_s8(q + m * GROUP + FIRST * 4); });
          each<4>([&](auto s) INLINE_LAMBDA {
            constexpr int S = FIRST + decltype(s)::value;
            if constexpr (S % 2 == 0) ask(values + S / 2 * bits_of(FORMAT) * 16);
            each<4>([&](auto r) INLINE_LAMBDA {
              const int8x16_t a = step<FORMAT, S>(values, r);
              each<M>([&](auto m) INLINE_LAMBDA {
                d[m][r] = add_products<decltype(s)::value>(d[m][r], a, x[m]);
                asm("" : "+w"(d[m][r]));
              });
            });
          });
        });
        const Quad scale = part<FORMAT>(w, g, 0, run);
        each<M>([&](auto m) INLINE_LAMBDA {
          const float32x4_t x = vdupq_n_f32(scales[g * M + m]);
          each<4>([&](auto r) INLINE_LAMBDA {
            c.sum[m].part[r] = vfmaq_f32(c.sum[m].part[r], vmulq_f32(scale.part[r], x), vcvtq_f32_s32(d[m][r]));
          });
        });
        if constexpr (has_minima(FORMAT)) c.template add<1>(part<FORMAT>(w, g, 1, run), sums + at);
      });
    }
    c.give(out);
  }
};
