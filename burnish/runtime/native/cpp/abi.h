// What kernels and who starts them agree on: arguments in slots of 8 bytes, and work in units that threads share out.
#pragma once
#include <cstddef>
#include <cstdint>

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

using i64 = int64_t;

// A thread at work. `scratch` is its own, and as large as the largest kernel of the program asks for.
struct alignas(64) Worker {
  char* scratch;
  bool rounded;   // activations are rounded, to what weights are multiplied with in the least time
  i64 prepared;  // what a kernel left in scratch for its next units, by a number of its own; -1 as it begins
  i64 lacked;  // nanoseconds of the last program in which it had something to do, and no processor
};

class Reach;

// A kernel by name. `slots` describes its arguments in order, "x:p out:w rows:i eps:f norm:none|rms|layer": a pointer
// that is read (p) or written (w), null where there is nothing; an integer; a float; the number of a word. Arguments are
// a struct of such fields.
struct Kernel {
  const char* name;
  const char* slots;
  void (*run)(const void* arguments, Worker& worker, i64 begin, i64 end);  // of its units
  i64 (*units)(const void* arguments);
  i64 (*scratch)(const void* arguments);  // bytes a thread
  void (*reach)(const void* arguments, Reach& reach);  // what it may touch, and which arguments it can work with
  bool uneven;  // units cost what they cost: each is claimed by itself, the first first
};

template <class A, void (*RUN)(const A&, Worker&, i64, i64), i64 (*UNITS)(const A&), i64 (*SCRATCH)(const A&),
          void (*REACH)(const A&, Reach&)>
constexpr Kernel kernel(const char* name, const char* slots, bool uneven = false) {
  static_assert(sizeof(A) % 8 == 0, "arguments are slots of 8 bytes");
  return {name, slots,
          [](const void* a, Worker& w, i64 begin, i64 end) { RUN(*static_cast<const A*>(a), w, begin, end); },
          [](const void* a) { return UNITS(*static_cast<const A*>(a)); },
          [](const void* a) { return SCRATCH(*static_cast<const A*>(a)); },
          [](const void* a, Reach& reach) { REACH(*static_cast<const A*>(a), reach); },
          uneven};
}

template <class A>
i64 no_scratch(const A&) { return 0; }

// Of positions, which are data: what is too large wraps around.
constexpr i64 wrapping_sum(i64 a, i64 b) { return static_cast<i64>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b)); }

constexpr i64 blocks(i64 size, i64 block) { return (size + block - 1) / block; }
constexpr i64 padded(i64 size, i64 to) { return blocks(size, to) * to; }

// Parts of a thread's scratch, one behind the other, each on a cache line of its own.
struct Scratch {
  char* at;
  template <class T>
  T* take(i64 count) {
    T* found = reinterpret_cast<T*>(at);
    at += padded(count * static_cast<i64>(sizeof(T)), 64);
    return found;
  }
};
