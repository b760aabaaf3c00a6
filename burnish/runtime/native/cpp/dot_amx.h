// AMX: 16 rows of int8 times a panel by tiles. What is added up in floats is the sums of groups, by the operations of
// Dot<FORMAT, true> in their order: a row has the same numbers by either.
#pragma once

// Groups of a panel that are made int8 together, once for all rows: with as much of a tile of rows they fit into the
// first cache.
constexpr i64 GROUPS_TOGETHER = 32;

struct alignas(64) Unpacked {
  int8_t values[GROUPS_TOGETHER][GROUP * PANEL];  // [8 steps][16 outputs][4 inputs], which is how tiles have it
  float scales[GROUPS_TOGETHER][PANEL], minima[GROUPS_TOGETHER][PANEL];
};

// What tiles there are, while it lives: then none, so that switching threads costs no more, and no one else finds ours.
struct Tiles {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, GROUP, 64, 64, GROUP, 64};  // of a row of: sums, rows of activations, weights; twice
    uint8_t rows[16] = {TILE, TILE, GROUP / 4, TILE, TILE, GROUP / 4};
  };
  Tiles() {
    const Configuration configuration;
    asm volatile("" : : "r"(&configuration) : "memory");
    _tile_loadconfig(&configuration);
  }
  ~Tiles() { _tile_release(); }
};

template <int FORMAT>
static INLINE void unpack(const char* panel, i64 first, i64 groups, Unpacked& to) {
  for (i64 g = 0; g < groups; g++) {
    _mm512_store_ps(to.scales[g], part<FORMAT>(panel, first + g, 0, 0));
    if constexpr (has_minima(FORMAT)) _mm512_store_ps(to.minima[g], part<FORMAT>(panel, first + g, 1, 0));
    all_steps<FORMAT, has_minima(FORMAT) ? 0 : zero_of(FORMAT)>(panel + group_at(FORMAT, first + g) + values_at(FORMAT), (char*)to.values[g]);
  }
  asm volatile("" : : : "memory");  // the compiler does not know that tiles read it
}

// 16 rows of one group times the panel's: SET chooses tiles, so that two products do not wait for each other.
template <int SET>
static INLINE void multiply(const int8_t* q, const int8_t* values, int32_t* d) {
  if constexpr (SET == 0) {
    _tile_loadd(1, q, GROUP);
    _tile_loadd(2, values, 64);
    _tile_zero(0);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, d, 64);
  } else {
    _tile_loadd(4, q, GROUP);
    _tile_loadd(5, values, 64);
    _tile_zero(3);
    _tile_dpbssd(3, 4, 5);
    _tile_stored(3, d, 64);
  }
}

// A tile of rows times `groups` groups, from group `first` on, added to out[TILE][16]; of which `count` are kept.
template <int FORMAT>
static INLINE void add_tile(const Unpacked& w, const Rows& rows, i64 row, i64 first, i64 groups, i64 count, float* out) {
  const int8_t* q = rows.q + row * rows.stride + first * GROUP * TILE;
  const float* scales = rows.scales + row * rows.groups + first * TILE;
  const float* sums = rows.sums + row * rows.groups + first * TILE;
  alignas(64) int32_t d[2][TILE * PANEL];
  __m512 c[TILE];
  each<TILE>([&](auto m) INLINE_LAMBDA { c[m] = first && m < count ? _mm512_loadu_ps(out + m * PANEL) : _mm512_setzero_ps(); });
  auto add = [&](i64 g, const int32_t* products) INLINE_LAMBDA {
    const __m512 scale = _mm512_load_ps(w.scales[g]);
    __m512 minimum;
    if constexpr (has_minima(FORMAT)) minimum = _mm512_load_ps(w.minima[g]);
    each<TILE>([&](auto m) INLINE_LAMBDA {
      const __m512 whole = _mm512_cvtepi32_ps(_mm512_load_si512(products + m * PANEL));
      c[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(scales[g * TILE + m])), whole, c[m]);
      if constexpr (has_minima(FORMAT)) c[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sums[g * TILE + m]), c[m]);
      asm("" : "+v"(c[m]));
    });
  };
  i64 g = 0;
  for (; g + 2 <= groups; g += 2) {
    multiply<0>(q + g * GROUP * TILE, w.values[g], d[0]);
    multiply<1>(q + (g + 1) * GROUP * TILE, w.values[g + 1], d[1]);
    add(g, d[0]);
    add(g + 1, d[1]);
  }
  if (g < groups) {
    multiply<0>(q + g * GROUP * TILE, w.values[g], d[0]);
    add(g, d[0]);
  }
  each<TILE>([&](auto m) INLINE_LAMBDA {
    if (m < count) _mm512_storeu_ps(out + m * PANEL, c[m]);
  });
}

// As panel_product: few rows are left to Dot, which is faster there.
template <int FORMAT>
struct ByTiles {
  static constexpr Tiling TILING = {TILE, Dot<FORMAT, true>::MOST};

  static __attribute__((noinline)) void panel(const char* panel, const Rows& rows, i64 count, i64 k, float* out) {
    const i64 rest = count % TILE < TILING.least ? count % TILE : 0, tiled = count - rest, groups = blocks(k, GROUP);
    if (tiled) multiply_all(panel, rows, tiled, groups, out);
    switch (rest) {
#define CASE(m) \
  case m: if constexpr (m < TILING.least) Dot<FORMAT, true>::template run<m>(panel, rows, tiled, k, out + tiled * PANEL); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
#undef CASE
    }
  }

 private:
  static void multiply_all(const char* panel, const Rows& rows, i64 count, i64 groups, float* out) {
    const Tiles tiles;
    Unpacked w;
    i64 first = 0;
    do {
      const i64 together = groups - first < GROUPS_TOGETHER ? groups - first : GROUPS_TOGETHER;
      unpack<FORMAT>(panel, first, together, w);
      for (i64 row = 0; row < count; row += TILE)
        add_tile<FORMAT>(w, rows, row, first, together, count - row, out + row * PANEL);
      first += together;
    } while (first < groups);
  }
};
