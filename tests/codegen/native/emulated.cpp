// Runs one kernel of the library on what a file gives, and writes what it wrote: for a processor that is emulated, where
// there is no Python. The file: the kernel, rounded, threads, the number of slots, and of each slot its bytes and these,
// or -1 and the 8 bytes of a number; all in int64. Slots with memory are given back, whole and in order.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "abi.h"

extern "C" {
void* burnish_open(int threads);
void burnish_close(void* pool);
const char* burnish_reach(i64 kernel, const void* arguments, i64* bytes, const char** types);
i64 burnish_scratch(const void* ops, i64 count);
int burnish_run(void* pool, const void* ops, i64 count, i64 scratch, int rounded, i64* times);
}

static void read(void* to, i64 bytes, FILE* file) {
  if (fread(to, 1, bytes, file) != static_cast<size_t>(bytes)) abort();
}
static i64 number(FILE* file) {
  i64 found;
  read(&found, 8, file);
  return found;
}

int main(int, char** given) {
  FILE* file = fopen(given[1], "rb");
  const i64 kernel = number(file), rounded = number(file), threads = number(file), slots = number(file);
  std::vector<i64> arguments(slots), bytes(slots), reach(slots, -1);
  std::vector<const char*> types(slots);
  for (i64 i = 0; i < slots; i++) {
    bytes[i] = number(file);
    if (bytes[i] < 0) {
      arguments[i] = number(file);
      continue;
    }
    void* memory = malloc(bytes[i]);
    read(memory, bytes[i], file);
    arguments[i] = reinterpret_cast<i64>(memory);
  }
  fclose(file);
  if (const char* wrong = burnish_reach(kernel, arguments.data(), reach.data(), types.data())) {
    fprintf(stderr, "it needs %s\n", wrong);
    return 1;
  }
  for (i64 i = 0; i < slots; i++)
    if (bytes[i] >= 0 && reach[i] > bytes[i]) {
      fprintf(stderr, "it takes more of slot %d than there is\n", static_cast<int>(i));
      return 1;
    }
  const i64 op[] = {kernel, reinterpret_cast<i64>(arguments.data()), 0};
  void* pool = burnish_open(static_cast<int>(threads));
  if (burnish_run(pool, op, 1, burnish_scratch(op, 1), static_cast<int>(rounded), nullptr)) return 1;
  burnish_close(pool);
  file = fopen(given[2], "wb");
  for (i64 i = 0; i < slots; i++)
    if (bytes[i] >= 0) fwrite(reinterpret_cast<void*>(arguments[i]), 1, bytes[i], file);
  fclose(file);
}
