#include "json.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

typedef unsigned __int128 u128;

static _Noreturn void refuse(const struct json *j, const char *problem) {
    fail("%s: byte %zu: %s", j->what, (size_t)(j->at - j->start), problem);
}

static char peek(struct json *j) {
    while (*j->at == ' ' || *j->at == '\t' || *j->at == '\n' || *j->at == '\r') j->at++;
    return *j->at;
}

static bool take(struct json *j, char expected) {
    if (peek(j) != expected) return false;
    j->at++;
    return true;
}

static bool take_word(struct json *j, const char *word) {
    peek(j);
    if (strncmp(j->at, word, strlen(word)) != 0) return false;
    j->at += strlen(word);
    return true;
}

static bool digit(char c) { return '0' <= c && c <= '9'; }

struct json json_text(const char *what, char *text) { return (struct json){.what = what, .start = text, .at = text}; }

void json_end(struct json *j) {
    if (peek(j)) refuse(j, "expected the end of the text");
}

static void open(struct json *j, char bracket, const char *problem) {
    if (!take(j, bracket)) refuse(j, problem);
    j->fresh = true;
}

// True when another item follows; its comma is taken.
static bool another(struct json *j, char close, const char *problem) {
    bool first = j->fresh;
    j->fresh = false;
    if (take(j, close)) return false;
    if (!first && !take(j, ',')) refuse(j, problem);
    return true;
}

void json_object(struct json *j) { open(j, '{', "expected an object"); }

bool json_key(struct json *j, struct slice *key) {
    if (!another(j, '}', "expected ',' or '}'")) return false;
    *key = json_string(j);
    if (!take(j, ':')) refuse(j, "expected ':'");
    return true;
}

void json_array(struct json *j) { open(j, '[', "expected an array"); }

bool json_item(struct json *j) { return another(j, ']', "expected ',' or ']'"); }

bool json_null(struct json *j) { return take_word(j, "null"); }

static void skip(struct json *j, int depth) {
    struct slice key;
    if (depth > JSON_DEPTH) refuse(j, "nested too deeply");
    switch (peek(j)) {
        case '{':
            for (json_object(j); json_key(j, &key);) skip(j, depth + 1);
            return;
        case '[':
            for (json_array(j); json_item(j);) skip(j, depth + 1);
            return;
        case '"':
            json_string(j);
            return;
        case 't':
        case 'f':
        case 'n':
            if (!take_word(j, "true") && !take_word(j, "false") && !json_null(j)) refuse(j, "expected a value");
            return;
        default:
            json_number(j);
    }
}

void json_skip(struct json *j) { skip(j, 1); }

size_t utf8_sequence(const char *at) {
    const unsigned char *s = (const unsigned char *)at;
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;  // stops at a terminating NUL too
    if (s[0] == 0xE0 && s[1] < 0xA0) return 0;
    if (s[0] == 0xED && s[1] > 0x9F) return 0;
    if (s[0] == 0xF0 && s[1] < 0x90) return 0;
    if (s[0] == 0xF4 && s[1] > 0x8F) return 0;
    return length;
}

static uint32_t hex4(struct json *j) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++, j->at++) {
        char c = *j->at, lower = c | 0x20;
        if (digit(c)) value = value * 16 + (uint32_t)(c - '0');
        else if ('a' <= lower && lower <= 'f') value = value * 16 + (uint32_t)(lower - 'a' + 10);
        else refuse(j, "expected four hexadecimal digits");
    }
    return value;
}

// The code point of a \u escape whose "\u" is already taken; a pair of surrogates is one code point.
static uint32_t code_point(struct json *j) {
    uint32_t high = hex4(j);
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || j->at[0] != '\\' || j->at[1] != 'u') refuse(j, "half of a surrogate pair");
    j->at += 2;
    uint32_t low = hex4(j);
    if (low < 0xDC00 || low > 0xDFFF) refuse(j, "half of a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

static char *put_utf8(char *to, uint32_t c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *to++ = (char)(0xE0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    } else {
        *to++ = (char)(0xF0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3F));
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    }
    return to;
}

struct slice json_string(struct json *j) {
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (!take(j, '"')) refuse(j, "expected a string");
    char *begin = j->at, *to = begin;  // an escape is never shorter than what it stands for, so `to` stays behind `at`
    while (*j->at != '"') {
        if ((unsigned char)*j->at < 0x20) refuse(j, *j->at ? "control character in a string" : "string without an end");
        if (*j->at != '\\') {
            size_t length = utf8_sequence(j->at);
            if (!length) refuse(j, "not UTF-8");
            while (length--) *to++ = *j->at++;
            continue;
        }
        j->at++;
        const char *escape = *j->at ? strchr(escapes, *j->at) : NULL;
        if (escape) {
            *to++ = meanings[escape - escapes];
            j->at++;
        } else if (*j->at == 'u') {
            j->at++;
            to = put_utf8(to, code_point(j));
        } else {
            refuse(j, "unknown escape");
        }
    }
    j->at++;
    return (struct slice){begin, (size_t)(to - begin)};
}

void json_print(FILE *to, struct slice text) {
    fputc('"', to);
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.at[i];
        if (c == '"' || c == '\\') fprintf(to, "\\%c", c);
        else if (c < 0x20) fprintf(to, "\\u%04x", c);
        else fputc(c, to);
    }
    fputc('"', to);
}

bool is(struct slice text, const char *expected) {
    return text.length == strlen(expected) && memcmp(text.at, expected, text.length) == 0;
}

// The powers of five below 2^63.
static const uint64_t FIVES[] = {
    1, 5, 25, 125, 625, 3125, 15625, 78125, 390625, 1953125, 9765625, 48828125, 244140625, 1220703125, 6103515625,
    30517578125, 152587890625, 762939453125, 3814697265625, 19073486328125, 95367431640625, 476837158203125,
    2384185791015625, 11920928955078125, 59604644775390625, 298023223876953125, 1490116119384765625,
    7450580596923828125,
};
enum { LARGEST_POWER = sizeof FIVES / sizeof *FIVES - 1 };

// The float64 nearest to w * 10^q, ties to even, for |q| <= LARGEST_POWER.
//
// 10^q = 5^q * 2^q, and the power of two only moves the exponent. So one exact 128-bit product, or one 128-bit quotient
// whose last bit also remembers whether a remainder was left, is rounded once, by the conversion to double. (The easy
// case of W. D. Clinger, "How to read floating point numbers accurately", PLDI 1990, with integers of 128 bits.)
// It reads all 17-digit numbers of a usual size at several times the speed of strtod.
static double nearest(uint64_t w, int q) {
    if (w == 0) return 0;
    uint64_t five = FIVES[abs(q)];
    if (q >= 0) return ldexp((double)((u128)w * five), q);
    // The numerator is shifted so far that the quotient has 63 or 64 bits: enough to round, and it fits a uint64_t.
    int shift = 63 + __builtin_clzll(w) - __builtin_clzll(five);
    u128 numerator = (u128)w << shift;
    uint64_t quotient = (uint64_t)(numerator / five);
    if ((u128)quotient * five != numerator) quotient |= 1;
    return ldexp((double)quotient, q - shift);
}

double json_number(struct json *j) {
    peek(j);
    char *begin = j->at;
    uint64_t w = 0;                // the digits as an integer, right when there are at most 19 of them ...
    int digits = 0, q = 0, e = 0;  // ... how many, without leading zeros, and the power of ten that goes with it
    bool negative = *j->at == '-', minus = false;
    if (negative) j->at++;

    if (!digit(*j->at)) refuse(j, "expected a number");
    if (*j->at == '0' && digit(j->at[1])) refuse(j, "a number starts with a superfluous zero");
    for (; digit(*j->at); j->at++) {
        unsigned d = (unsigned)(*j->at - '0');
        w = w * 10 + d;
        digits += digits || d;
    }
    if (*j->at == '.') {
        j->at++;
        if (!digit(*j->at)) refuse(j, "expected a digit after '.'");
        for (; digit(*j->at); j->at++, q--) {
            unsigned d = (unsigned)(*j->at - '0');
            w = w * 10 + d;
            digits += digits || d;
        }
    }
    if ((*j->at | 0x20) == 'e') {
        j->at++;
        minus = *j->at == '-';
        if (*j->at == '-' || *j->at == '+') j->at++;
        if (!digit(*j->at)) refuse(j, "expected a digit in the exponent");
        for (; digit(*j->at); j->at++)
            if (e < 100000) e = e * 10 + (*j->at - '0');
    }
    q += minus ? -e : e;

    double value;
    if (digits <= 19 && abs(q) <= LARGEST_POWER) value = negative ? -nearest(w, q) : nearest(w, q);
    else value = strtod(begin, NULL);
    if (!isfinite(value)) j->at = begin, refuse(j, "number too large for a float64");
    return value;
}
