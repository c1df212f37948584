/* Integer arithmetic on odd values, in every width: one line of text for each operation. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

static uint64_t values[] = {0, 1, 2, 3, 7, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x123456789abcdef, 0x7fffffffffffffff,
    0x8000000000000000, 0xfedcba9876543210, 0xffffffffffffffff};
#define COUNT (sizeof values / sizeof *values)

static uint64_t hash = 0xcbf29ce484222325;
static void mix(uint64_t v) { hash = (hash ^ v) * 0x100000001b3; }

#define WIDTH(bits) \
static void width##bits(void) { \
    for (unsigned a = 0; a < COUNT; a++) for (unsigned b = 0; b < COUNT; b++) { \
        volatile uint##bits##_t x = values[a], y = values[b]; \
        volatile int##bits##_t sx = x, sy = y; \
        mix((uint##bits##_t)(x + y)); mix((uint##bits##_t)(x - y)); mix((uint##bits##_t)(x * y)); \
        mix((uint##bits##_t)(x & y)); mix((uint##bits##_t)(x << (y % bits))); \
        mix((uint##bits##_t)(x >> (y % bits))); mix((uint64_t)(sx >> (y % bits))); \
        mix((uint##bits##_t)(x << (y % bits) | x >> ((bits - y % bits) % bits))); \
        if (y) { mix(x / y); mix(x % y); } \
        if (y && !(sy == -1 && x == (uint##bits##_t)1 << (bits - 1))) { mix(sx / sy); mix(sx % sy); } \
        uint##bits##_t r; int##bits##_t s; \
        mix(__builtin_add_overflow(x, y, &r)); mix(__builtin_sub_overflow(x, y, &r)); \
        mix(__builtin_mul_overflow(x, y, &r)); mix(__builtin_add_overflow(sx, sy, &s)); \
        mix(__builtin_sub_overflow(sx, sy, &s)); mix(__builtin_mul_overflow(sx, sy, &s)); \
        mix((x < y) | (x <= y) << 1 | (sx < sy) << 2 | (sx <= sy) << 3 | (x == y) << 4); \
    } \
    printf("%d bits %016" PRIx64 "\n", bits, hash); \
}
WIDTH(8) WIDTH(16) WIDTH(32) WIDTH(64)

int main(void) {
    width8(); width16(); width32(); width64();
    for (unsigned a = 0; a < COUNT; a++) for (unsigned b = 0; b < COUNT; b++) {
        volatile unsigned __int128 x = (unsigned __int128)values[a] << 64 | values[b];
        volatile unsigned __int128 y = (unsigned __int128)values[b] << 32 | values[a] | 1;
        unsigned __int128 r = x * y + x / y + x % y + (x >> (a + b)) + (x << (a * 2));
        mix(r); mix(r >> 64);
        volatile __int128 sx = x, sy = y;
        r = sx / sy ^ sx % sy;
        mix(r); mix(r >> 64);
    }
    printf("128 bits %016" PRIx64 "\n", hash);
    for (unsigned a = 0; a < COUNT; a++) {
        volatile uint64_t v = values[a];
        mix(__builtin_popcountll(v)); mix(__builtin_bswap64(v)); mix(__builtin_bswap32(v));
        mix(__builtin_parityll(v)); mix(__builtin_ffsll(v));
        if (v) { mix(__builtin_clzll(v)); mix(__builtin_ctzll(v)); }
    }
    printf("bits %016" PRIx64 "\n", hash);
    struct { int a : 5; unsigned b : 11; long long c : 37; unsigned d : 1; } f = {0};
    for (unsigned n = 0; n < 100000; n++) { f.a += n; f.b ^= n * 7; f.c -= n * 123457ll; f.d += 1; }
    printf("fields %d %u %lld %u\n", f.a, f.b, (long long)f.c, f.d);
    return 0;
}
