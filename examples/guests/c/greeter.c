/* A component, with nothing between it and the canonical ABI: functions with text, lists and records, and a command. */

#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))

IMPORT("wasi:cli/stdout@0.2.0", "get-stdout")
extern int32_t get_stdout(void);
IMPORT("wasi:io/streams@0.2.0", "[method]output-stream.blocking-write-and-flush")
extern void write_and_flush(int32_t stream, const void *bytes, size_t count, void *outcome);
IMPORT("wasi:io/streams@0.2.0", "[resource-drop]output-stream")
extern void drop_stream(int32_t stream);

extern unsigned char __heap_base;
static uintptr_t heap;

/* Every call has a fresh instance, so nothing is ever given back. */
EXPORT("cabi_realloc")
void *allocate(const void *old, size_t old_size, size_t align, size_t size) {
  if (heap == 0) heap = (uintptr_t)&__heap_base;
  heap = (heap + align - 1) & ~(align - 1);
  unsigned char *found = (unsigned char *)heap;
  heap += size;
  size_t pages = (heap + 65535) / 65536, there = __builtin_wasm_memory_size(0);
  if (pages > there && __builtin_wasm_memory_grow(0, pages - there) == (size_t)-1) __builtin_trap();
  for (size_t at = 0; at < old_size && at < size; at++) found[at] = ((const unsigned char *)old)[at];
  return found;
}

typedef struct {
  const char *text;
  size_t size;
} String;

EXPORT("greet")
const String *greet(const char *name, size_t size) {
  static const char before[] = "hello, ";
  static String greeting;
  greeting.size = sizeof before - 1 + size;
  char *text = allocate(NULL, 0, 1, greeting.size);
  for (size_t at = 0; at < greeting.size; at++) text[at] = at < sizeof before - 1 ? before[at] : name[at - sizeof before + 1];
  greeting.text = text;
  return &greeting;
}

/* result<summary, string> in memory */
typedef struct {
  uint8_t failed;
  union {
    struct {
      uint32_t count;
      double mean;
    } summary;
    String error;
  };
} Summarized;

EXPORT("example:greeter/statistics@0.1.0#summarize")
const Summarized *summarize(const double *values, size_t count) {
  static const char empty[] = "there are no values";
  static Summarized found;
  if (count == 0) {
    found.failed = 1;
    found.error = (String){empty, sizeof empty - 1};
    return &found;
  }
  double sum = 0;
  for (size_t at = 0; at < count; at++) sum += values[at];
  found.summary.count = (uint32_t)count;
  found.summary.mean = sum / (double)count;
  return &found;
}

/* 0 is ok, 1 is a failure. */
EXPORT("wasi:cli/run@0.2.0#run")
int32_t run(void) {
  static const char line[] = "hello from a component\n";
  struct {
    uint8_t failed;
    uint8_t rest[11];
  } outcome;
  int32_t stream = get_stdout();
  write_and_flush(stream, line, sizeof line - 1, &outcome);
  drop_stream(stream);
  return outcome.failed;
}
