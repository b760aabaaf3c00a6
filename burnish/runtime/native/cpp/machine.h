// What this machine can do, to hold the speed of models against: sums of products in registers, and reading memory.
#pragma once
#include "team.h"
#include "vector.h"

struct Measured {
  i64 until = 0;  // of the products, by the clock
  const float* memory = nullptr;
  i64 floats = 0;
  int threads = 1;
  std::atomic<i64> operations{0};
  V sink[MOST_THREADS] = {};  // what came out: it has to be computed
};

static void multiply(void* given, int thread) {
  Measured& measured = *static_cast<Measured*>(given);
  constexpr int SUMS = 12;  // enough for two units of five cycles each
  const V factor = splat(0.999f);
  V sums[SUMS];
  each<SUMS>([&](auto n) { sums[n] = splat(n); });
  i64 rounds = 0;
  for (; nanoseconds() < measured.until; rounds += 1000)
    for (int i = 0; i < 1000; i++) each<SUMS>([&](auto n) { sums[n] = sums[n] * factor + factor; });
  each<SUMS>([&](auto n) { measured.sink[thread] += sums[n]; });
  measured.operations += rounds * SUMS * LANES * 2;
}

static void read_memory(void* given, int thread) {
  Measured& measured = *static_cast<Measured*>(given);
  constexpr int SUMS = 8;
  const i64 blocks = measured.floats / (SUMS * LANES);
  const i64 begin = blocks * thread / measured.threads, end = blocks * (thread + 1) / measured.threads;
  V sums[SUMS] = {};
  for (i64 i = begin; i < end; i++) {
    const float* at = measured.memory + i * SUMS * LANES;
    each<SUMS>([&](auto n) { sums[n] += load(at + n * LANES); });
  }
  each<SUMS>([&](auto n) { measured.sink[thread] += sums[n]; });
}

// Floating point operations of all threads together within `length` nanoseconds.
static i64 peak(Team& team, i64 length) {
  Measured measured;
  measured.until = nanoseconds() + length;
  team.run(multiply, &measured);
  return measured.operations;
}

// Nanoseconds in which all threads together read `floats`.
static i64 reading(Team& team, const float* memory, i64 floats) {
  Measured measured;
  measured.memory = memory, measured.floats = floats, measured.threads = team.size();
  const i64 since = nanoseconds();
  team.run(read_memory, &measured);
  return nanoseconds() - since;
}
