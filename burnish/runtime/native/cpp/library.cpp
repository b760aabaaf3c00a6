// The kernels by name, and programs of them on a team of threads: what Python calls.
#include <atomic>
#include <cstdlib>
#include <new>

#include "attention.h"
#include "attention_projection.h"
#include "choose.h"
#include "codes.h"
#include "convolution.h"
#include "copy.h"
#include "cumsum.h"
#include "elementwise.h"
#include "fused_linear.h"
#include "gather.h"
#include "machine.h"
#include "mixture.h"
#include "pace.h"
#include "places.h"
#include "row_ops.h"
#include "state_writes.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

static const Kernel KERNELS[] = {
    kernel<FusedLinear, fused_linear, fused_linear_units, fused_linear_scratch, fused_linear_reach>("fused_linear", FUSED_LINEAR),
    kernel<AttentionProjection, attention_projection, attention_projection_units, attention_projection_scratch,
           attention_projection_reach>("attention_projection", ATTENTION_PROJECTION),
    kernel<Attention, attention, attention_units, attention_scratch, attention_reach>("attention", ATTENTION, true),
    kernel<Gather, gather, gather_units, no_scratch<Gather>, gather_reach>("gather", GATHER),
    kernel<GatherPanels, gather_panels, gather_panels_units, no_scratch<GatherPanels>, gather_panels_reach>("gather_panels", GATHER_PANELS),
    kernel<Argmax, argmax, argmax_units, no_scratch<Argmax>, argmax_reach>("argmax", ARGMAX),
    kernel<Copy, copy, copy_units, no_scratch<Copy>, copy_reach>("copy", COPY),
    kernel<Elementwise, elementwise, elementwise_units, no_scratch<Elementwise>, elementwise_reach>("elementwise", ELEMENTWISE),
    kernel<NormRows, norm_rows, rows_units<NormRows>, no_scratch<NormRows>, norm_rows_reach>("norm_rows", NORM_ROWS),
    kernel<Positions, positions, positions_units, no_scratch<Positions>, positions_reach>("positions", POSITIONS),
    kernel<Reduce, reduce, reduce_units, no_scratch<Reduce>, reduce_reach>("reduce", REDUCE),
    kernel<RotaryRows, rotary_rows, rotary_units, no_scratch<RotaryRows>, rotary_rows_reach>("rotary_rows", ROTARY_ROWS),
    kernel<SoftmaxRows, softmax_rows, rows_units<SoftmaxRows>, no_scratch<SoftmaxRows>, softmax_rows_reach>("softmax_rows", SOFTMAX_ROWS),
    kernel<TopScores, top_scores, top_scores_units, top_scores_scratch, top_scores_reach>("top_scores", TOP_SCORES),
    kernel<Topk, topk, topk_units, topk_scratch, topk_reach>("topk", TOPK),
    kernel<StateWrite, state_write, state_write_units, no_scratch<StateWrite>, state_write_reach>("state_write", STATE_WRITE),
    kernel<RingPositions, ring_positions, ring_positions_units, no_scratch<RingPositions>, ring_positions_reach>("ring_positions", RING_POSITIONS),
    kernel<MoeLinear, moe_linear, moe_linear_units, moe_linear_scratch, moe_linear_reach>("moe_linear", MOE_LINEAR, true),
    kernel<Convolution, convolution, convolution_units, convolution_scratch, convolution_reach>("convolution", CONVOLUTION),
    kernel<Cumsum, cumsum, cumsum_units, no_scratch<Cumsum>, cumsum_reach>("cumsum", CUMSUM),
    kernel<GatherPlaces, gather_places, gather_places_units, no_scratch<GatherPlaces>, gather_places_reach>("gather_places", GATHER_PLACES),
    kernel<Scatter, scatter, scatter_units, no_scratch<Scatter>, scatter_reach>("scatter", SCATTER),
    kernel<CodeScales, code_scales, rows_of_last_axis<CodeScales>, no_scratch<CodeScales>, code_scales_reach>("code_scales", CODE_SCALES),
    kernel<ToCodes, to_codes, rows_of_last_axis<ToCodes>, no_scratch<ToCodes>, to_codes_reach>("to_codes", TO_CODES),
    kernel<FromCodes, from_codes, rows_of_last_axis<FromCodes>, no_scratch<FromCodes>, from_codes_reach>("from_codes", FROM_CODES),
};
constexpr int COUNT = sizeof(KERNELS) / sizeof(KERNELS[0]);

struct Op {
  i64 kernel;
  const void* arguments;
  i64 barrier;  // what is before has to be done
};

struct alignas(64) Claim {
  std::atomic<i64> next{0};
};

struct Pool {
  Team team;
  Worker workers[MOST_THREADS];
  i64 scratch = 0;
  Claim* claims = nullptr;
  i64 claimed = 0;  // room for
  const Op* ops = nullptr;
  i64 count = 0;
  Pace paces[64];  // by the length in bits of a program's units
  bool alone = false;  // the first thread runs this program by itself
  std::atomic<bool> running{false};
  i64* times = nullptr;  // of the first thread, nanoseconds of each op: waiting in front of it, then at work; or null

  explicit Pool(int threads) : team(threads), workers{} {}
  ~Pool() {  // the team is between two runs: no thread reads these
    for (Worker& worker : workers) free(worker.scratch);
    delete[] claims;
  }
};

EXPORT int burnish_kernels() { return COUNT; }
EXPORT const char* burnish_kernel_name(int number) { return KERNELS[number].name; }
EXPORT const char* burnish_kernel_slots(int number) { return KERNELS[number].slots; }

EXPORT void* burnish_open(int threads) { return new (std::nothrow) Pool(threads < MOST_THREADS ? threads : MOST_THREADS); }

EXPORT void burnish_close(void* pool) { delete static_cast<Pool*>(pool); }

// Of each slot the bytes from its pointer on that a kernel may touch, and the type of their elements, null for any;
// slots that it does not touch stay as they are. What it needs and does not have, null where it can work.
EXPORT const char* burnish_reach(i64 kernel, const void* arguments, i64* bytes, const char** types) {
  Reach reach(arguments, bytes, types);
  KERNELS[kernel].reach(arguments, reach);
  return reach.wrong;
}

// Bytes a thread that a program needs.
EXPORT i64 burnish_scratch(const Op* ops, i64 count) {
  i64 most = 0;
  for (i64 i = 0; i < count; i++) {
    const i64 bytes = KERNELS[ops[i].kernel].scratch(ops[i].arguments);
    most = bytes > most ? bytes : most;
  }
  return most;
}

// The last eighth of an op's units is claimed piece by piece, by who is done first.
static void work(void* given, int thread) {
  Pool& pool = *static_cast<Pool*>(given);
  Worker& worker = pool.workers[thread];
  const i64 threads = pool.alone ? 1 : pool.team.size();
  const i64 started = nanoseconds(), used = nanoseconds(CLOCK_THREAD_CPUTIME_ID), parked = pool.team.parked(thread);
  for (i64 i = 0; i < pool.count; i++) {
    const Op& op = pool.ops[i];
    const Kernel& kernel = KERNELS[op.kernel];
    i64* times = thread == 0 && pool.times ? pool.times + 2 * i : nullptr;
    i64 since = times ? nanoseconds() : 0;
    if (op.barrier && !pool.alone) pool.team.barrier(thread);
    if (times) {
      const i64 now = nanoseconds();
      times[0] += now - since;
      since = now;
    }
    worker.prepared = -1;
    const i64 units = kernel.units(op.arguments);
    const i64 fixed = threads == 1 ? units : kernel.uneven ? 0 : units - units / 8;
    const i64 begin = fixed * thread / threads, end = fixed * (thread + 1) / threads;
    if (begin < end) kernel.run(op.arguments, worker, begin, end);
    const i64 piece = kernel.uneven ? 1 : 1 + (units - fixed) / (4 * threads);
    while (fixed != units) {
      const i64 from = fixed + pool.claims[i].next.fetch_add(piece, std::memory_order_relaxed);
      if (from >= units) break;
      kernel.run(op.arguments, worker, from, from + piece < units ? from + piece : units);
    }
    if (times) times[1] += nanoseconds() - since;
  }
  worker.lacked = nanoseconds() - started - (nanoseconds(CLOCK_THREAD_CPUTIME_ID) - used);
  worker.lacked -= pool.team.parked(thread) - parked;
}

// By the team, or by one thread where that is faster.
static void run(Pool& pool) {
  uint64_t units = 0;
  for (i64 i = 0; i < pool.count; i++) units += KERNELS[pool.ops[i].kernel].units(pool.ops[i].arguments);
  Pace& pace = pool.paces[63 - __builtin_clzll(units | 1)];
  pool.alone = pool.team.size() == 1 || pace.alone();
  const i64 since = nanoseconds();
  if (pool.alone)
    work(&pool, 0);
  else
    pool.team.run(work, &pool);
  i64 lacked = 0;
  for (int t = 0; t < pool.team.size(); t++) lacked += pool.workers[t].lacked;
  if (pool.team.size() > 1) pace.ran(nanoseconds() - since, lacked, pool.team.size());
}

// Room for what a program claims and for its threads' scratch: false where there is no memory.
static bool make_room(Pool& pool, i64 count, i64 scratch) {
  if (count > pool.claimed) {
    delete[] pool.claims;
    pool.claimed = 0;
    pool.claims = new (std::nothrow) Claim[count];
    if (!pool.claims) return false;
    pool.claimed = count;
  }
  for (int t = 0; t < pool.team.size(); t++) {
    Worker& worker = pool.workers[t];
    if (scratch <= pool.scratch && worker.scratch) continue;
    free(worker.scratch);
    worker.scratch = static_cast<char*>(aligned_alloc(64, padded(scratch, 64) + 64));
    if (!worker.scratch) return pool.scratch = 0, false;
  }
  if (scratch > pool.scratch) pool.scratch = scratch;
  return true;
}

enum Outcome { DONE, NO_MEMORY, RUNNING };

// RUNNING: another thread runs a program on these.
EXPORT int burnish_run(void* given, const Op* ops, i64 count, i64 scratch, int rounded, i64* times) {
  Pool& pool = *static_cast<Pool*>(given);
  if (pool.running.exchange(true)) return RUNNING;
  const bool room = make_room(pool, count, scratch);
  if (room) {
    for (int t = 0; t < pool.team.size(); t++) pool.workers[t].rounded = rounded;
    for (i64 i = 0; i < count; i++) pool.claims[i].next.store(0, std::memory_order_relaxed);
    pool.ops = ops, pool.count = count, pool.times = times;
    run(pool);
  }
  pool.running.store(false);
  return room ? DONE : NO_MEMORY;
}

// See machine.h.
EXPORT i64 burnish_peak(void* pool, i64 length) { return peak(static_cast<Pool*>(pool)->team, length); }

EXPORT i64 burnish_reading(void* pool, const float* memory, i64 floats) {
  return reading(static_cast<Pool*>(pool)->team, memory, floats);
}
