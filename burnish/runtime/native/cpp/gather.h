// out[o, i] = table[o, ids[i]]: rows of tables of floats or integers, or of a weight in panels.
#pragma once
#include <algorithm>

#include "element.h"

struct Gather {
  const char* table;
  const i64* ids;
  char* out;
  i64 outer, count, table_rows, bytes;  // of a row
};
#define GATHER "table:p ids:p out:w outer:i count:i table_rows:i bytes:i"

static void gather_reach(const Gather& a, Reach& reach) {
  if (!reach.sizes({a.outer, a.count, a.table_rows, a.bytes})) return;
  reach.operand(a.table, in_order({a.outer, a.table_rows, a.bytes}), ANY_BYTE);
  reach.operand(a.ids, in_order({a.count}));
  reach.result(a.out, in_order({a.outer, a.count, a.bytes}), ANY_BYTE);
}
static i64 gather_units(const Gather& a) { return a.outer * a.count; }
static void gather(const Gather& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    i64 id = a.ids[begin % a.count];
    if (id < 0) id += a.table_rows;
    if (id < 0 || id >= a.table_rows) memset(a.out + begin * a.bytes, 0xff, a.bytes);  // not a number: never a neighbour's row
    else memcpy(a.out + begin * a.bytes, a.table + (begin / a.count * a.table_rows + id) * a.bytes, a.bytes);
  }
}

struct GatherPanels {
  const char* table;
  const i64* ids;
  float* out;
  i64 count, table_rows, size, format;
};
#define GATHER_PANELS "table:p ids:p out:w count:i table_rows:i size:i format:" FORMATS

static void gather_panels_reach(const GatherPanels& a, Reach& reach) {
  if (!reach.sizes({a.count, a.table_rows, a.size})) return;
  reach.operand(a.table, in_order({blocks(a.table_rows, PANEL), panel_bytes(a.format, a.size)}), ANY_BYTE);
  reach.operand(a.ids, in_order({a.count}));
  reach.result(a.out, in_order({a.count, a.size}));
}
static i64 gather_panels_units(const GatherPanels& a) { return a.count; }
static void gather_panels(const GatherPanels& a, Worker&, i64 begin, i64 end) {
  for (; begin < end; begin++) {
    i64 id = a.ids[begin];
    if (id < 0) id += a.table_rows;
    float* out = a.out + begin * a.size;
    if (id < 0 || id >= a.table_rows) std::fill(out, out + a.size, __builtin_nanf(""));
    else panel_row(a.format, a.table + id / PANEL * panel_bytes(a.format, a.size), id % PANEL, out, a.size);
  }
}
