// A team of threads that stays for all steps: each writes a flag of its own, and reads those of the others.
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>

#include "abi.h"

constexpr int MOST_THREADS = 256;
constexpr i64 SPIN_NANOSECONDS = 200000;  // then a thread parks, and costs nobody anything

static inline i64 nanoseconds(clockid_t clock = CLOCK_MONOTONIC) {
  timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static inline void spin_gently() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  using Body = void (*)(void* context, int thread);

  explicit Team(int threads) : count(threads) {}

  // Threads are made at the first run of a process: a child has none of its parent's.
  void run(Body todo, void* given) {
    if (process != getpid()) start();
    body = todo;
    context = given;
    barrier(0);
    body(context, 0);
    barrier(0);
  }

  // All threads are here before one of them goes on.
  void barrier(int thread) {
    if (count == 1) return;
    const int mine = flags[thread].passed.load(std::memory_order_relaxed) + 1;
    flags[thread].passed.store(mine, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst)) wake(thread);
    for (int other = 0; other < count; other++)
      if (other != thread) wait_for(thread, other, mine);
  }

  ~Team() {
    if (process != getpid()) return;
    stopped = true;
    barrier(0);
    for (int t = 1; t < count; t++) pthread_join(threads[t], nullptr);
  }

  int size() const { return count; }

  // Nanoseconds that a thread, which asks, was parked since the team was made, until it was woken: from there on it
  // waits for a processor.
  i64 parked(int thread) const { return flags[thread].parked; }

 private:
  struct Start {
    Team* team;
    int thread;
  };
  struct alignas(128) Flag {
    std::atomic<int> passed{0};
    std::atomic<i64> woke{0};  // when its thread last woke the others
    i64 parked = 0;            // its thread's alone
  };

  // Where the system gives fewer threads than were wanted, the team is smaller.
  void start() {
    process = getpid();
    for (Flag& flag : flags) flag.passed.store(0);
    sleepers.store(0);
    ready.store(false);
    int made = 1;
    for (; made < count; made++) {
      starts[made] = {this, made};
      if (pthread_create(&threads[made], nullptr, enter, &starts[made])) break;
    }
    count = made;
    ready.store(true, std::memory_order_release);
  }

  static void* enter(void* given) {
    const Start& start = *static_cast<Start*>(given);
    Team& team = *start.team;
    while (!team.ready.load(std::memory_order_acquire)) sched_yield();
    for (;;) {
      team.barrier(start.thread);  // until there is something to do
      if (team.stopped) return nullptr;
      team.body(team.context, start.thread);
      team.barrier(start.thread);
    }
  }

  void wait_for(int thread, int other, int mine) {
    std::atomic<int>& flag = flags[other].passed;
    i64 since = 0;
    for (int spins = 1; flag.load(std::memory_order_acquire) - mine < 0; spins++) {
      spin_gently();
      if (spins % 64) continue;
      const i64 now = nanoseconds();
      if (!since) since = now;
      if (now - since < SPIN_NANOSECONDS) continue;
      sleepers.fetch_add(1, std::memory_order_seq_cst);
      const int seen = flag.load(std::memory_order_seq_cst);
      if (seen - mine < 0) syscall(SYS_futex, &flag, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
      sleepers.fetch_sub(1, std::memory_order_seq_cst);
      const i64 woken = flags[other].woke.load(std::memory_order_relaxed);
      flags[thread].parked += (woken > now ? woken : nanoseconds()) - now;
    }
  }

  void wake(int thread) {
    flags[thread].woke.store(nanoseconds(), std::memory_order_relaxed);
    syscall(SYS_futex, &flags[thread].passed, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }

  int count;
  pid_t process = 0;  // that the threads are of
  std::atomic<bool> ready{false};
  bool stopped = false;
  Body body = nullptr;
  void* context = nullptr;
  std::atomic<int> sleepers{0};
  pthread_t threads[MOST_THREADS];
  Start starts[MOST_THREADS];
  Flag flags[MOST_THREADS];
};
