// A strict reader of JSON (RFC 8259) that walks the text once and builds no tree.
//
//     struct slice key;
//     for (json_object(&j); json_key(&j, &key);)
//         if (is(key, "b")) b = json_number(&j);
//         else json_skip(&j);
//     json_end(&j);
//
// Whatever is not JSON ends the program through fail(), naming the text and the byte. Numbers that are too large for a
// float64 are refused; NaN and Infinity are not JSON. Strings are unescaped in place, so the text must be writable.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

// Values inside each other that json_skip follows before it refuses the text; bounds the stack it can use.
enum { JSON_DEPTH = 64 };

struct slice {
    const char *at;  // UTF-8, not terminated, may contain NUL
    size_t length;
};

struct json {
    const char *what;  // names the text in messages
    char *start, *at;
    bool fresh;  // an object or array was just opened: no comma before its first item
};

// Reads `text`, which ends at its first NUL.
struct json json_text(const char *what, char *text);
void json_end(struct json *j);

void json_object(struct json *j);
bool json_key(struct json *j, struct slice *key);
void json_array(struct json *j);
bool json_item(struct json *j);

double json_number(struct json *j);
struct slice json_string(struct json *j);
bool json_null(struct json *j);  // takes a null if one is next
void json_skip(struct json *j);

// Writes the string with its quotes, escaped; the bytes must be UTF-8.
void json_print(FILE *to, struct slice text);

bool is(struct slice text, const char *expected);

// Bytes of the UTF-8 sequence at `at` (RFC 3629: shortest form, no surrogates, at most U+10FFFF), 0 when it is not one.
size_t utf8_sequence(const char *at);
