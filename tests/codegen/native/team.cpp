// A step of several ops on a team of threads, thousands of times, for a sanitizer of threads to watch: each op reads
// what the one before wrote, and what comes out is the same every time.
#include <cstdio>
#include <vector>

#include "library.cpp"

constexpr i64 TOKENS = 3, CAPACITY = 520, SIZE = 20, EXPERTS = 5, CHOICES = 2, OUT = 150, TABLE = 40;

static i64 number_of(const char* name) {
  for (i64 i = 0; i < COUNT; i++)
    if (!strcmp(KERNELS[i].name, name)) return i;
  abort();
}

static std::vector<float> some(i64 count) {
  std::vector<float> x(count);
  for (i64 i = 0; i < count; i++) x[i] = static_cast<float>(i * 37 % 101 - 50) / 100.0f;
  return x;
}

int main(int, char** given) {
  const int times = atoi(given[1]);
  void* pool = nullptr;
  std::vector<float> table = some(TABLE * SIZE), cache = some(CAPACITY * SIZE), weight = some(EXPERTS * padded(OUT, PANEL) * SIZE);
  std::vector<i64> ids = {1, 39, 7}, position = {500}, experts(TOKENS * CHOICES), best(TOKENS * CHOICES);
  std::vector<float> x(TOKENS * SIZE), y(TOKENS * SIZE), scores(TOKENS * CHOICES), products(TOKENS * CHOICES * OUT);
  std::vector<float> totals(products.size()), parts(blocks(CAPACITY, CHUNK) * TOKENS * (SIZE + 2));
  std::vector<int32_t> finished(1);

  Gather lookup = {};
  lookup.table = reinterpret_cast<char*>(table.data()), lookup.ids = ids.data(), lookup.out = reinterpret_cast<char*>(x.data());
  lookup.count = TOKENS, lookup.table_rows = TABLE, lookup.bytes = SIZE * 4;
  StateWrite write = {};
  write.fresh = reinterpret_cast<char*>(x.data()), write.state = reinterpret_cast<char*>(cache.data()), write.position = position.data();
  write.batch = write.heads = 1, write.tokens = TOKENS, write.capacity = CAPACITY, write.bytes = write.fresh_stride_s = SIZE * 4;
  Attention attend = {};
  attend.query = x.data(), attend.key = attend.value = cache.data(), attend.out = y.data(), attend.position = position.data();
  attend.parts = parts.data(), attend.finished = finished.data();
  attend.batch = attend.heads = attend.kv_heads = 1, attend.tokens = TOKENS, attend.capacity = CAPACITY;
  attend.key_size = attend.value_size = SIZE, attend.scale = 1.0, attend.mask = CAUSAL, attend.element = FLOAT32;
  attend.query_stride_s = attend.key_stride_t = attend.value_stride_t = attend.out_stride_s = SIZE;
  Topk choose = {y.data(), scores.data(), experts.data(), TOKENS, EXPERTS, CHOICES, 1};
  MoeLinear mix = {};
  mix.x = y.data(), mix.weight = reinterpret_cast<char*>(weight.data()), mix.experts = experts.data(), mix.out = products.data();
  mix.rows = TOKENS, mix.choices = CHOICES, mix.count = EXPERTS, mix.size_n = OUT, mix.size_k = SIZE, mix.shared = 1, mix.format = F32;
  Cumsum add = {products.data(), totals.data(), TOKENS * CHOICES, OUT, 1, 0, 0};
  Argmax find = {totals.data(), best.data(), TOKENS * CHOICES, OUT};

  // The choice is of the first EXPERTS numbers of y in memory: TOKENS rows of them.
  const Op step[] = {{number_of("gather"), &lookup, 1},     {number_of("state_write"), &write, 1},
                     {number_of("attention"), &attend, 1},  {number_of("topk"), &choose, 1},
                     {number_of("moe_linear"), &mix, 1},    {number_of("cumsum"), &add, 1},
                     {number_of("argmax"), &find, 1}};
  constexpr i64 ops = sizeof(step) / sizeof(step[0]);
  std::vector<float> first;
  for (int i = 0; i < times; i++) {
    if (i % 500 == 0) {  // teams come and go
      if (pool) burnish_close(pool);
      pool = burnish_open(3);
    }
    if (i % 50 == 0) usleep(1000);  // all others park
    std::fill(totals.begin(), totals.end(), -1.0f);
    if (burnish_run(pool, step, ops, burnish_scratch(step, ops), 1, nullptr)) return 1;
    if (i == 0) first = totals;
    if (totals != first || finished[0]) {
      fprintf(stderr, "step %d gave something else than the first\n", i);
      return 1;
    }
  }
  burnish_close(pool);
  printf("%d steps on %d threads: totals end with %g\n", times, 3, static_cast<double>(totals.back()));
}
