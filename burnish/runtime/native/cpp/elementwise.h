// out = op(a, b, c), element by element: operands of any strides, or numbers. A block is read into floats or integers,
// the op is chosen once for it, and its results are stored as what `out` has.
#pragma once
#include <climits>
#include <cmath>
#include <type_traits>

#include "states.h"
#include "strided.h"

enum Type { TYPE_NUMBER, TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_I64, TYPE_I32, TYPE_I8, TYPE_U8, TYPE_BOOL };
#define TYPES "number|float32|float16|bfloat16|int64|int32|int8|uint8|bool"

enum ElementOp {
  CAST, ABS, NEG, CEIL, FLOOR, EXP, EXPM1, LOG, LOG1P, SQRT, RSQRT, RECIPROCAL, SIN, COS, TANH, ERF,
  ACTIVATED, GATED, ELU, SOFTPLUS, MISH, HARDSIGMOID, HARDSWISH, LEAKY_RELU, LOG_SIGMOID,
  ADD, ADD_SCALED, SUB, MUL, DIV, POW, MAXIMUM, MINIMUM, CLAMP, WHERE,
  EQ, NE, LT, LE, GT, GE, LOGICAL_AND, LOGICAL_OR, LOGICAL_NOT, BITWISE_AND, BITWISE_OR, BITWISE_NOT,
};
#define ELEMENT_OPS \
  "cast|abs|neg|ceil|floor|exp|expm1|log|log1p|sqrt|rsqrt|reciprocal|sin|cos|tanh|erf|activated|gated|elu|softplus|" \
  "mish|hardsigmoid|hardswish|leaky_relu|log_sigmoid|add|add_scaled|sub|mul|div|pow|maximum|minimum|clamp|where|" \
  "eq|ne|lt|le|gt|ge|logical_and|logical_or|logical_not|bitwise_and|bitwise_or|bitwise_not"

// The value of a number is number + whole, of which one is 0.
struct Elementwise {
  void* out;
  const void *a, *b, *c;
  i64 op, activation, integers, out_type, a_type, b_type, c_type;
  double a_number, b_number, c_number;
  i64 a_whole, b_whole, c_whole;
  i64 size[AXES], out_stride[AXES], a_stride[AXES], b_stride[AXES], c_stride[AXES];
};
#define ELEMENTWISE                                                                                              \
  "out:w a:p b:p c:p op:" ELEMENT_OPS " activation:" ACTIVATIONS " integers:i out_type:" TYPES " a_type:" TYPES \
  " b_type:" TYPES " c_type:" TYPES " a_number:f b_number:f c_number:f a_whole:i b_whole:i c_whole:i" SIX("size") \
  SIX("out_stride") SIX("a_stride") SIX("b_stride") SIX("c_stride")

constexpr ElementType TYPES_OF_ELEMENTS[] = {{nullptr, 0},    {"float32", 4}, {"float16", 2}, {"bfloat16", 2}, {"int64", 8},
                                             {"int32", 4}, {"int8", 1},    {"uint8", 1},   {"bool", 1}};
static void operand_reach(Reach& reach, const void* const& x, i64 type, const i64* sizes, const i64* strides) {
  if (type != TYPE_NUMBER) return reach.operand(x, axes_of(sizes, strides), TYPES_OF_ELEMENTS[type]);
  for (int axis = 0; axis < AXES; axis++) reach.need(strides[axis] == 0, "numbers without strides");
}
static void elementwise_reach(const Elementwise& e, Reach& reach) {
  if (!reach.need(e.out_type != TYPE_NUMBER, "an out of some type")) return;
  reach.result(e.out, axes_of(e.size, e.out_stride), TYPES_OF_ELEMENTS[e.out_type]);
  operand_reach(reach, e.a, e.a_type, e.size, e.a_stride);
  operand_reach(reach, e.b, e.b_type, e.size, e.b_stride);
  operand_reach(reach, e.c, e.c_type, e.size, e.c_stride);
}

// ---------------------------------------------------------------- floats

template <class F>
INLINE V by_lane(V x, F f) {
  float lanes[LANES];
  store(lanes, x);
  for (float& lane : lanes) lane = f(lane);
  return load(lanes);
}
INLINE V truth(VI mask) { return select(mask, splat(1.0f), splat(0.0f)); }
// Of a pair with what is no number, that.
INLINE V largest(V a, V b) { return select((a > b) | (a != a), a, b); }
INLINE V smallest(V a, V b) { return select((a < b) | (a != a), a, b); }
INLINE V between(V x, float least, float most) { return smallest(largest(x, splat(least)), splat(most)); }
INLINE V absolute(V x) { return (V)((VI)x & 0x7fffffff); }
INLINE V log1p(V x) { return by_lane(x, [](float lane) { return std::log1p(lane); }); }
INLINE V expm1(V x) { return by_lane(x, [](float lane) { return std::expm1(lane); }); }

template <class F>
INLINE void map(const float* a, float* out, i64 n, F f) {
  i64 i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, f(load(a + i)));
  if (i < n) store_some(out + i, f(load_some(a + i, n - i)), n - i);
}
template <class F>
INLINE void map(const float* a, const float* b, float* out, i64 n, F f) {
  i64 i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, f(load(a + i), load(b + i)));
  if (i < n) store_some(out + i, f(load_some(a + i, n - i), load_some(b + i, n - i)), n - i);
}
template <class F>
INLINE void map(const float* a, const float* b, const float* c, float* out, i64 n, F f) {
  i64 i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, f(load(a + i), load(b + i), load(c + i)));
  if (i < n) store_some(out + i, f(load_some(a + i, n - i), load_some(b + i, n - i), load_some(c + i, n - i)), n - i);
}

#define UNARY(OP, RESULT) case OP: map(a, out, n, [&](V x) INLINE_LAMBDA { return RESULT; }); break
#define BY_LANE(OP, RESULT) case OP: for (i64 i = 0; i < n; i++) { const float x = a[i]; out[i] = RESULT; } break
#define BINARY(OP, RESULT) case OP: map(a, b, out, n, [&](V x, V y) INLINE_LAMBDA { return RESULT; }); break
#define TERNARY(OP, RESULT) case OP: map(a, b, c, out, n, [&](V x, V y, V z) INLINE_LAMBDA { return RESULT; }); break

static void float_functions(const Elementwise& e, const float* a, const float* b, const float* c, float* out, i64 n) {
  switch (e.op) {
    UNARY(ABS, absolute(x));
    UNARY(NEG, -x);
    UNARY(EXP, exp(x));
    UNARY(RECIPROCAL, splat(1.0f) / x);
    UNARY(TANH, tanh(x));
    UNARY(ERF, erf(x));
    UNARY(ACTIVATED, activated(x, e.activation));
    BINARY(GATED, activated(x, e.activation) * y);
    BY_LANE(CEIL, std::ceil(x));
    BY_LANE(FLOOR, std::floor(x));
    BY_LANE(EXPM1, std::expm1(x));
    BY_LANE(LOG, std::log(x));
    BY_LANE(LOG1P, std::log1p(x));
    BY_LANE(SQRT, std::sqrt(x));
    BY_LANE(RSQRT, 1.0f / std::sqrt(x));
    BY_LANE(SIN, std::sin(x));
    BY_LANE(COS, std::cos(x));
    BY_LANE(POW, std::pow(x, b[i]));
    TERNARY(ELU, z * select(x > 0.0f, x, y * expm1(x)));
    TERNARY(SOFTPLUS, select(x * y > z, x, log1p(exp(x * y)) / y));
    UNARY(MISH, x * tanh(log1p(exp(x))));
    UNARY(HARDSIGMOID, between(x + 3.0f, 0.0f, 6.0f) / 6.0f);
    UNARY(HARDSWISH, x * between(x + 3.0f, 0.0f, 6.0f) / 6.0f);
    BINARY(LEAKY_RELU, select(x > 0.0f, x, x * y));
    UNARY(LOG_SIGMOID, smallest(x, V{}) - log1p(exp(-absolute(x))));
    default: memcpy(out, a, n * sizeof(float));  // CAST
  }
}

static void apply(const Elementwise& e, const float* a, const float* b, const float* c, float* out, i64 n) {
  switch (e.op) {
    BINARY(ADD, x + y);
    TERNARY(ADD_SCALED, x + z * y);
    BINARY(SUB, x - y);
    BINARY(MUL, x * y);
    BINARY(DIV, x / y);
    BINARY(MAXIMUM, largest(x, y));
    BINARY(MINIMUM, smallest(x, y));
    TERNARY(CLAMP, smallest(largest(x, y), z));
    TERNARY(WHERE, select(x != 0.0f, y, z));
    BINARY(EQ, truth(x == y));
    BINARY(NE, truth(x != y));
    BINARY(LT, truth(x < y));
    BINARY(LE, truth(x <= y));
    BINARY(GT, truth(x > y));
    BINARY(GE, truth(x >= y));
    BINARY(LOGICAL_AND, truth((x != 0.0f) & (y != 0.0f)));
    BINARY(LOGICAL_OR, truth((x != 0.0f) | (y != 0.0f)));
    UNARY(LOGICAL_NOT, truth(x == 0.0f));
    default: float_functions(e, a, b, c, out, n);
  }
}
#undef UNARY
#undef BY_LANE
#undef BINARY
#undef TERNARY

// ---------------------------------------------------------------- integers, which wrap around

INLINE i64 wrapped(uint64_t x) { return static_cast<i64>(x); }
INLINE uint64_t bits(i64 x) { return static_cast<uint64_t>(x); }

INLINE i64 power(i64 base, i64 exponent) {
  uint64_t result = 1, factor = bits(base);
  for (; exponent > 0; exponent >>= 1, factor *= factor)
    if (exponent & 1) result *= factor;
  return wrapped(result);
}

#define EACH(OP, RESULT) case OP: for (i64 i = 0; i < n; i++) out[i] = RESULT; break

static void apply(const Elementwise& e, const i64* a, const i64* b, const i64* c, i64* out, i64 n) {
  switch (e.op) {
    EACH(ABS, a[i] < 0 ? wrapped(-bits(a[i])) : a[i]);
    EACH(NEG, wrapped(-bits(a[i])));
    EACH(ACTIVATED, a[i] > 0 ? a[i] : 0);  // RELU: the others give floats
    EACH(ADD, wrapped(bits(a[i]) + bits(b[i])));
    EACH(ADD_SCALED, wrapped(bits(a[i]) + bits(c[i]) * bits(b[i])));
    EACH(SUB, wrapped(bits(a[i]) - bits(b[i])));
    EACH(MUL, wrapped(bits(a[i]) * bits(b[i])));
    EACH(POW, power(a[i], b[i]));
    EACH(MAXIMUM, a[i] > b[i] ? a[i] : b[i]);
    EACH(MINIMUM, a[i] < b[i] ? a[i] : b[i]);
    EACH(CLAMP, a[i] > c[i] || b[i] > c[i] ? c[i] : a[i] < b[i] ? b[i] : a[i]);
    EACH(WHERE, a[i] ? b[i] : c[i]);
    EACH(EQ, a[i] == b[i]);
    EACH(NE, a[i] != b[i]);
    EACH(LT, a[i] < b[i]);
    EACH(LE, a[i] <= b[i]);
    EACH(GT, a[i] > b[i]);
    EACH(GE, a[i] >= b[i]);
    EACH(LOGICAL_AND, a[i] && b[i]);
    EACH(LOGICAL_OR, a[i] || b[i]);
    EACH(LOGICAL_NOT, !a[i]);
    EACH(BITWISE_AND, a[i] & b[i]);
    EACH(BITWISE_OR, a[i] | b[i]);
    EACH(BITWISE_NOT, ~a[i]);
    default: memcpy(out, a, n * sizeof(i64));  // CAST
  }
}
#undef EACH

// ---------------------------------------------------------------- reading and storing

template <class T>
struct Natural;
template <>
struct Natural<float> {
  static constexpr i64 type = TYPE_F32;
};
template <>
struct Natural<i64> {
  static constexpr i64 type = TYPE_I64;
};

template <class T, class S>
INLINE T converted(S x) {
  if constexpr (std::is_same_v<T, i64> && std::is_same_v<S, float>) {
    return x >= -0x1p63f && x < 0x1p63f ? static_cast<i64>(x) : LLONG_MIN;
  } else {
    return static_cast<T>(x);
  }
}

template <class T>
INLINE void fill(T* to, T value, i64 n) {
  typedef T Wide __attribute__((vector_size(64)));
  constexpr i64 WIDTH = 64 / sizeof(T);
  Wide wide;
  for (i64 i = 0; i < WIDTH; i++) wide[i] = value;  // of nothing and -0.0 the sum would be 0.0
  i64 i = 0;
  for (; i + WIDTH <= n; i += WIDTH) memcpy(to + i, &wide, 64);
  for (; i < n; i++) to[i] = value;
}

// Elements of S as `wide` makes them, into a buffer, row by row.
template <class S, class T, class F>
INLINE void read_as(const void* from, const i64* at, i64 rows, i64 length, i64 stride, T* buffer, F wide) {
  for (i64 r = 0; r < rows; r++, buffer += length) {
    const S* x = static_cast<const S*>(from) + at[r];
    if (stride == 1) for (i64 i = 0; i < length; i++) buffer[i] = wide(x[i]);
    else if (stride == 0) fill<T>(buffer, wide(x[0]), length);
    else for (i64 i = 0; i < length; i++) buffer[i] = wide(x[i * stride]);
  }
}
template <class S, class T, class F>
INLINE void store_as(void* to, const i64* at, i64 rows, i64 length, i64 stride, const T* buffer, F narrow) {
  for (i64 r = 0; r < rows; r++, buffer += length) {
    S* out = static_cast<S*>(to) + at[r];
    if (stride == 1) for (i64 i = 0; i < length; i++) out[i] = narrow(buffer[i]);
    else for (i64 i = 0; i < length; i++) out[i * stride] = narrow(buffer[i]);
  }
}

template <class T>
static void read_block(i64 type, const void* from, const i64* at, i64 rows, i64 length, i64 stride, T* buffer) {
#define READ(TYPE, S, WIDE) case TYPE: read_as<S>(from, at, rows, length, stride, buffer, [](S x) INLINE_LAMBDA { return WIDE; }); break
  switch (type) {
    READ(TYPE_F32, float, converted<T>(x));
    READ(TYPE_F16, uint16_t, converted<T>(widened<FLOAT16>(x)));
    READ(TYPE_BF16, uint16_t, converted<T>(widened<BFLOAT16>(x)));
    READ(TYPE_I64, i64, converted<T>(x));
    READ(TYPE_I32, int32_t, converted<T>(x));
    READ(TYPE_I8, int8_t, converted<T>(x));
    default: READ(TYPE_U8, uint8_t, converted<T>(x));  // and TYPE_BOOL
  }
#undef READ
}

template <class T>
static void store_block(i64 type, void* to, const i64* at, i64 rows, i64 length, i64 stride, const T* buffer) {
#define STORE(TYPE, S, NARROW) case TYPE: store_as<S>(to, at, rows, length, stride, buffer, [](T x) INLINE_LAMBDA { return NARROW; }); break
  switch (type) {
    STORE(TYPE_F32, float, converted<float>(x));
    STORE(TYPE_F16, uint16_t, narrowed<FLOAT16>(converted<float>(x)));
    STORE(TYPE_BF16, uint16_t, narrowed<BFLOAT16>(converted<float>(x)));
    STORE(TYPE_I64, i64, converted<i64>(x));
    STORE(TYPE_I32, int32_t, static_cast<int32_t>(converted<i64>(x)));
    STORE(TYPE_I8, int8_t, static_cast<int8_t>(converted<i64>(x)));
    STORE(TYPE_U8, uint8_t, static_cast<uint8_t>(converted<i64>(x)));
    default: STORE(TYPE_BOOL, uint8_t, x != 0);
  }
#undef STORE
}

static Blocks<4> elementwise_blocks(const Elementwise& e) {
  return Blocks<4>(Space<4>(e.size, {e.out_stride, e.a_stride, e.b_stride, e.c_stride}));
}
static i64 elementwise_units(const Elementwise& e) { return elementwise_blocks(e).count; }

// What lies as the op reads it is read, and written, in its place.
template <class T>
static void elementwise_as(const Elementwise& e, i64 begin, i64 end) {
  const Blocks<4> all = elementwise_blocks(e);
  const int last = all.space.axes - 1;
  alignas(64) T buffers[4][BLOCK];
  const void* from[3] = {e.a, e.b, e.c};
  const i64 types[3] = {e.a_type, e.b_type, e.c_type};
  const double numbers[3] = {e.a_number, e.b_number, e.c_number};
  const i64 wholes[3] = {e.a_whole, e.b_whole, e.c_whole};
  const T* operands[3] = {buffers[0], buffers[1], buffers[2]};
  for (int o = 0; o < 3; o++) {
    if (types[o] != TYPE_NUMBER) continue;
    fill<T>(buffers[o], wholes[o] ? static_cast<T>(wholes[o]) : static_cast<T>(numbers[o]), BLOCK);
  }
  BlockOf<4> block;
  for (; begin < end; begin++) {
    block.set(all, begin);
    const bool one = block.rows == 1;
    for (int o = 0; o < 3; o++) {
      if (types[o] == TYPE_NUMBER) continue;
      const i64 stride = all.space.stride[o + 1][last];
      const bool direct = one && stride == 1 && types[o] == Natural<T>::type;
      operands[o] = direct ? static_cast<const T*>(from[o]) + block.at[o + 1][0] : buffers[o];
      if (!direct) read_block<T>(types[o], from[o], block.at[o + 1], block.rows, block.length, stride, buffers[o]);
    }
    const i64 stride = all.space.stride[0][last];
    const bool direct = one && stride == 1 && e.out_type == Natural<T>::type;
    T* out = direct ? static_cast<T*>(e.out) + block.at[0][0] : buffers[3];
    apply(e, operands[0], operands[1], operands[2], out, block.rows * block.length);
    if (!direct) store_block<T>(e.out_type, e.out, block.at[0], block.rows, block.length, stride, out);
  }
}

static void elementwise(const Elementwise& e, Worker&, i64 begin, i64 end) {
  if (e.integers) elementwise_as<i64>(e, begin, end);
  else elementwise_as<float>(e, begin, end);
}
