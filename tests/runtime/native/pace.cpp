// When a team gives way to one thread, on runs that are made up.
#include <cstdio>
#include <cstdlib>

#include "pace.h"

constexpr i64 MILLISECOND = 1000000;

static void expect(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "not so: %s\n", what);
  exit(1);
}

// Runs as the pace wants them; how many of them were alone.
static int runs(Pace& pace, int count, i64 team, i64 lacked, i64 one) {
  int alone = 0;
  for (int i = 0; i < count; i++) {
    const bool by_one = pace.alone();
    pace.ran(by_one ? one : team, by_one ? 0 : lacked, 2);
    alone += by_one;
  }
  return alone;
}

int main() {
  Pace quiet;
  expect(!runs(quiet, 1000, 4 * MILLISECOND, MILLISECOND / 10, 7 * MILLISECOND), "a team that lacks little is not timed");
  Pace disturbed;
  runs(disturbed, 20, 4 * MILLISECOND, MILLISECOND / 10, 7 * MILLISECOND);
  expect(!runs(disturbed, 2, 10 * MILLISECOND, 10 * MILLISECOND, 7 * MILLISECOND), "nor one that lacks much for a moment");
  expect(!runs(disturbed, 100, 4 * MILLISECOND, 0, 7 * MILLISECOND), "which is forgotten");
  Pace busy;
  expect(!runs(busy, 5, 20 * MILLISECOND, 15 * MILLISECOND, 7 * MILLISECOND), "the team comes first");
  expect(runs(busy, 15, 20 * MILLISECOND, 15 * MILLISECOND, 7 * MILLISECOND) == 15, "then one thread");
  expect(runs(busy, 100, 20 * MILLISECOND, 15 * MILLISECOND, 7 * MILLISECOND) == 100, "and it stays, as the faster one");
  Pace uneven;
  expect(runs(uneven, 1000, 20 * MILLISECOND, 15 * MILLISECOND, 30 * MILLISECOND) < 6, "a faster team stays a team");
  Pace again;
  runs(again, 40, 6 * MILLISECOND, 4 * MILLISECOND, 5 * MILLISECOND);
  expect(again.alone(), "one thread is faster");
  usleep(9 * 205 * 1000);
  expect(!again.alone(), "and after a while the team is tried again");
}
