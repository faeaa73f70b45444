// What every part of the guest needs: one way to give up, and memory that never runs out quietly.
#pragma once

#include <stddef.h>

// Writes "error: " and the message to stderr and exits with code 1. Nothing has been written to stdout at that point.
_Noreturn __attribute__((format(printf, 1, 2))) void fail(const char *format, ...);

// realloc for an array of `count` items of `size` bytes that fails instead of returning NULL.
void *resize(void *items, size_t count, size_t size);
