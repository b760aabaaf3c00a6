// Numbers of 8 bits with a scale for some of them, as burnish/ir/code_ops.py. Units are rows of the last axis.
#pragma once
#include <cmath>

#include "reach.h"
#include "vector.h"

enum Numbers { INT8_CODES, FP8_CODES };
#define NUMBERS "int8|fp8"

constexpr float LARGEST[] = {127.0f, 448.0f}, LEAST[] = {-128.0f, -448.0f};

// Where rows [a][b][c] of a tensor begin; step: from one element of a row to the next, 0 if they are one.
struct RowPlaces {
  i64 stride_a, stride_b, stride_c, step;
};

constexpr ElementType CODE_TYPES[] = {{"int8", 1}, {"uint8", 1}};
template <class A>
Axes rows_at(const A& a, const RowPlaces& places) {
  return {{a.size_a, places.stride_a}, {a.size_b, places.stride_b}, {a.size_c, places.stride_c}, {a.size, places.step}};
}

struct CodeScales {
  const float* x;
  float* out;
  i64 size_a, size_b, size_c, size;
  RowPlaces x_places;
  i64 numbers;
};
#define ROW_PLACES(name) name "_stride_a:i " name "_stride_b:i " name "_stride_c:i " name "_step:i "
#define CODE_SCALES "x:p out:w size_a:i size_b:i size_c:i size:i " ROW_PLACES("x") "numbers:" NUMBERS

template <class A>
INLINE i64 place_of(const A& a, const RowPlaces& places, i64 row) {
  return row / (a.size_b * a.size_c) * places.stride_a + row / a.size_c % a.size_b * places.stride_b +
         row % a.size_c * places.stride_c;
}
template <class A>
i64 rows_of_last_axis(const A& a) { return a.size_a * a.size_b * a.size_c; }

static void code_scales_reach(const CodeScales& a, Reach& reach) {
  reach.operand(a.x, rows_at(a, a.x_places));
  reach.result(a.out, in_order({a.size_a, a.size_b, a.size_c}));
}

static void code_scales(const CodeScales& a, Worker&, i64 begin, i64 end) {
  const float share = static_cast<float>(1.0 / LARGEST[a.numbers]);
  for (; begin < end; begin++) {
    const float* x = a.x + place_of(a, a.x_places, begin);
    float most = 0.0f;
    for (i64 i = 0; i < a.size; i++) {
      const float size = std::fabs(x[i * a.x_places.step]);
      if (!(size <= most)) most = most != most ? most : size;  // what is no number stays
    }
    const float scale = most * share;
    a.out[begin] = scale < 1.17549435e-38f ? 1.17549435e-38f : scale;  // of zeros, too, something to divide by
  }
}

// The float8_e4m3fn nearest to x, halves to even (Micikevicius et al., 2022).
INLINE uint8_t to_fp8(float x) {
  constexpr uint32_t least_normal = 121u << 23, shifted = 141u << 23;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits & 0x80000000u;
  bits ^= sign;
  if (x != x) {
    bits = 0x7f;
  } else if (bits < least_normal) {  // to whole steps of 2^-9, by adding what has such steps
    float size, step;
    memcpy(&size, &bits, 4);
    memcpy(&step, &shifted, 4);
    size += step;
    memcpy(&bits, &size, 4);
    bits -= shifted;
  } else {
    bits = (bits - (120u << 23) + 0x7ffffu + (bits >> 20 & 1)) >> 20;
  }
  return static_cast<uint8_t>(bits | sign >> 24);
}
INLINE float from_fp8(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code >> 7) << 31, rest = code & 127;
  if (rest == 127) return __builtin_nanf("");
  if (rest < 8) return (sign ? -0.001953125f : 0.001953125f) * static_cast<float>(rest);
  const uint32_t bits = sign | ((rest << 20) + (120u << 23));
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

struct ToCodes {
  const float *x, *scales;
  uint8_t* out;
  i64 size_a, size_b, size_c, size;
  RowPlaces x_places, scales_places;
  i64 numbers;
};
#define TO_CODES \
  "x:p scales:p out:w size_a:i size_b:i size_c:i size:i " ROW_PLACES("x") ROW_PLACES("scales") "numbers:" NUMBERS

static void to_codes_reach(const ToCodes& a, Reach& reach) {
  reach.operand(a.x, rows_at(a, a.x_places));
  reach.operand(a.scales, rows_at(a, a.scales_places));
  reach.result(a.out, in_order({a.size_a, a.size_b, a.size_c, a.size}), CODE_TYPES[a.numbers]);
}

static void to_codes(const ToCodes& a, Worker&, i64 begin, i64 end) {
  const float least = LEAST[a.numbers], largest = LARGEST[a.numbers];
  for (; begin < end; begin++) {
    const float *x = a.x + place_of(a, a.x_places, begin), *scales = a.scales + place_of(a, a.scales_places, begin);
    uint8_t* out = a.out + begin * a.size;
    for (i64 i = 0; i < a.size; i++) {
      float part = x[i * a.x_places.step] / scales[i * a.scales_places.step];
      part = part < least ? least : part > largest ? largest : part;
      if (a.numbers == FP8_CODES) out[i] = to_fp8(part);
      else out[i] = static_cast<uint8_t>(part != part ? 0 : static_cast<int>(std::nearbyint(part)));
    }
  }
}

struct FromCodes {
  const uint8_t* codes;
  const float* scales;
  float* out;
  i64 size_a, size_b, size_c, size;
  RowPlaces codes_places, scales_places;
  i64 numbers;
};
#define FROM_CODES \
  "codes:p scales:p out:w size_a:i size_b:i size_c:i size:i " ROW_PLACES("codes") ROW_PLACES("scales") "numbers:" NUMBERS

static void from_codes_reach(const FromCodes& a, Reach& reach) {
  reach.operand(a.codes, rows_at(a, a.codes_places), CODE_TYPES[a.numbers]);
  reach.operand(a.scales, rows_at(a, a.scales_places));
  reach.result(a.out, in_order({a.size_a, a.size_b, a.size_c, a.size}));
}

static void from_codes(const FromCodes& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    const uint8_t* codes = a.codes + place_of(a, a.codes_places, begin);
    const float* scales = a.scales + place_of(a, a.scales_places, begin);
    for (i64 i = 0; i < a.size; i++) {
      const uint8_t code = codes[i * a.codes_places.step];
      const float x = a.numbers == FP8_CODES ? from_fp8(code) : static_cast<float>(static_cast<int8_t>(code));
      a.out[begin * a.size + i] = x * scales[i * a.scales_places.step];
    }
  }
}
