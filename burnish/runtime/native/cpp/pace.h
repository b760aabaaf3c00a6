// Whether a team is worth it: where others use the processors, its threads wait for the one that has none.
#pragma once
#include "team.h"

// Of programs of about one size. A team whose threads lack processors is timed against one thread, and the faster of the
// two runs the next programs: the results are the same, to the last bit. How long threads wait for each other would not
// tell: the parts of their work are never equal.
class Pace {
 public:
  bool alone() {
    if (phase == CHOSEN && nanoseconds() > until) *this = Pace();
    return phase == TRIAL || (phase == CHOSEN && alone_is_faster);
  }

  // `took` nanoseconds, in which all threads of a team together had something to do for `lacked`, and no processor.
  void ran(i64 took, i64 lacked, int threads) {
    if (phase == CHOSEN) return;
    runs++, time += took, lacks += lacked;
    if (runs < LEAST_RUNS || time < LEAST_NANOSECONDS) return;
    if (phase == WATCH && lacks * MUCH < time * threads) {
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
  static constexpr i64 LEAST_RUNS = 2, LEAST_NANOSECONDS = 100000000;  // what lasts shorter is over by now
  static constexpr i64 MUCH = 8;   // a share of all threads' time
  static constexpr i64 HOLD = 8;  // times what was measured: a trial that was in vain costs little

  enum { WATCH, TRIAL, CHOSEN } phase = WATCH;
  bool alone_is_faster = false;
  i64 runs = 0, time = 0, lacks = 0, team_runs = 0, team_time = 0, until = 0;
};
