// Whether a team is worth it: where others use the processors, its threads wait for each other longer than they work.
#pragma once
#include "team.h"

// Of programs of about one size. A team that waits much is timed against one thread, and the faster of the two runs the
// next programs: the results are the same, to the last bit.
class Pace {
 public:
  bool alone() {
    if (phase == CHOSEN && nanoseconds() > until) *this = Pace();
    return phase == TRIAL || (phase == CHOSEN && alone_is_faster);
  }

  // `took` nanoseconds, of which all threads of a team waited `waited` together.
  void ran(i64 took, i64 waited, int threads) {
    if (phase == CHOSEN) return;
    runs++, time += took, waits += waited;
    if (runs < LEAST_RUNS || time < LEAST_NANOSECONDS) return;
    if (phase == WATCH && waits * MUCH < time * threads) {
      *this = Pace();
    } else if (phase == WATCH) {
      phase = TRIAL, team_runs = runs, team_time = time;
      runs = time = 0;
    } else {
      phase = CHOSEN, alone_is_faster = static_cast<double>(time) * team_runs < static_cast<double>(team_time) * runs;
      until = nanoseconds() + HOLD * (time + team_time);
    }
  }

 private:
  static constexpr i64 LEAST_RUNS = 2, LEAST_NANOSECONDS = 20000000;  // several slices of the scheduler
  static constexpr i64 MUCH = 8;   // a share of all threads' time: quiet machines stay below
  static constexpr i64 HOLD = 16;  // times what was measured: a trial that was in vain costs little

  enum { WATCH, TRIAL, CHOSEN } phase = WATCH;
  bool alone_is_faster = false;
  i64 runs = 0, time = 0, waits = 0, team_runs = 0, team_time = 0, until = 0;
};
