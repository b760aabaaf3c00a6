// Operands that are walked together, each by strides of its own.
#pragma once
#include "reach.h"

constexpr int AXES = 6;
#define SIX(name) " " name "_0:i " name "_1:i " name "_2:i " name "_3:i " name "_4:i " name "_5:i"

// The axes of an operand, and one behind them.
static inline Axes axes_of(const i64* sizes, const i64* strides, Axis last = {1, 1}) {
  Axes all = {};
  for (int i = 0; i < AXES; i++) all.axis[all.count++] = {sizes[i], strides[i]};
  all.axis[all.count++] = last;
  return all;
}

// Axes of several operands: those of one element are gone, neighbours that are one stretch everywhere are one, and the
// first operand's closest elements are innermost.
template <int OPERANDS>
struct Space {
  int axes = 0;
  i64 size[AXES], stride[OPERANDS][AXES];
  i64 inner, rows;  // elements of the last axis, and of all others together

  Space(const i64* sizes, const i64* const (&strides)[OPERANDS]) {
    for (int axis = 0; axis < AXES; axis++)
      if (sizes[axis] != 1) insert(sizes, strides, axis);
    if (!axes) insert(sizes, strides, 0);
    merge();
    inner = size[axes - 1];
    rows = 1;
    for (int axis = 0; axis < axes - 1; axis++) rows *= size[axis];
  }

  // Where a row begins in each operand.
  void begin(i64 row, i64* at) const {
    for (int o = 0; o < OPERANDS; o++) at[o] = 0;
    for (int axis = axes - 2; axis >= 0; axis--) {
      const i64 place = row % size[axis];
      row /= size[axis];
      for (int o = 0; o < OPERANDS; o++) at[o] += place * stride[o][axis];
    }
  }

  // Where one of all elements is.
  void element(i64 number, i64* at) const {
    begin(number / inner, at);
    for (int o = 0; o < OPERANDS; o++) at[o] += number % inner * stride[o][axes - 1];
  }

  i64 count() const { return rows * inner; }

 private:
  void insert(const i64* sizes, const i64* const (&strides)[OPERANDS], int axis) {
    int place = axes++;
    for (; place && stride[0][place - 1] < strides[0][axis]; place--) move(place - 1, place);
    size[place] = sizes[axis];
    for (int o = 0; o < OPERANDS; o++) stride[o][place] = strides[o][axis];
  }

  void move(int from, int to) {
    size[to] = size[from];
    for (int o = 0; o < OPERANDS; o++) stride[o][to] = stride[o][from];
  }

  void merge() {
    int last = 0;
    for (int axis = 1; axis < axes; axis++) {
      bool one = true;
      for (int o = 0; o < OPERANDS; o++) one &= stride[o][last] == size[axis] * stride[o][axis];
      const i64 before = size[last];
      if (!one) last++;
      move(axis, last);
      if (one) size[last] *= before;
    }
    axes = last + 1;
  }
};

// Blocks of a space, each of at most `most` elements: whole rows, or a part of one.
constexpr i64 BLOCK = 512;
template <int OPERANDS>
struct Blocks {
  Space<OPERANDS> space;
  i64 most;
  i64 rows, parts;  // that a block has, and that a row has
  i64 count;

  explicit Blocks(const Space<OPERANDS>& given, i64 most = BLOCK) : space(given), most(most) {
    const i64 inner = space.inner > 0 ? space.inner : 1;
    rows = inner < most ? most / inner : 1;
    parts = blocks(inner, most);
    count = space.count() ? blocks(space.rows, rows) * parts : 0;
  }
};

template <int OPERANDS>
struct BlockOf {
  i64 rows, length;           // of each row
  i64 at[OPERANDS][BLOCK];    // where its rows begin

  void set(const Blocks<OPERANDS>& all, i64 number) {
    const Space<OPERANDS>& space = all.space;
    const i64 first = number / all.parts * all.rows, skipped = number % all.parts * all.most;
    rows = space.rows - first < all.rows ? space.rows - first : all.rows;
    length = space.inner - skipped < all.most ? space.inner - skipped : all.most;
    for (i64 r = 0; r < rows; r++) {
      i64 begin[OPERANDS];
      space.begin(first + r, begin);
      for (int o = 0; o < OPERANDS; o++) at[o][r] = begin[o] + skipped * space.stride[o][space.axes - 1];
    }
  }
};
