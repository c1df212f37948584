/* Floating point: float, double and long double, every rounding, what is exact by IEEE 754; and
   the C library's functions to twelve digits (their last ones depend on the processor's features). */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash = 0xcbf29ce484222325;
static void mix(const void *p, size_t n) { for (const unsigned char *c = p; n--; c++) hash = (hash ^ *c) * 0x100000001b3; }
static double values[] = {0.0, -0.0, 1.0, -1.0, 0.1, 1.5, 2.5, -3.75, 1e10, 1e-10, 1e300, 1e-300, 4.9e-324,
    2.2250738585072014e-308, 1.7976931348623157e308, 123456789.125, 9007199254740993.0, 0.3333333333333333,
    -1e18, 65504.0, 1e38, 1e-45, INFINITY, -INFINITY};
#define COUNT (sizeof values / sizeof *values)

#define TYPE(type, size, name, sqrt, fma, fmod, rint, remainder) \
static void name(void) { \
    for (unsigned a = 0; a < COUNT; a++) for (unsigned b = 0; b < COUNT; b++) { \
        volatile type x = values[a], y = values[b], r; \
        feclearexcept(FE_ALL_EXCEPT); \
        r = x + y; if (r == r) mix((void *)&r, size); r = x - y; if (r == r) mix((void *)&r, size); \
        r = x * y; if (r == r) mix((void *)&r, size); r = x / y; if (r == r) mix((void *)&r, size); \
        r = sqrt(x); if (r == r) mix((void *)&r, size); r = rint(x); mix((void *)&r, size); \
        int flags = fetestexcept(FE_ALL_EXCEPT); mix(&flags, sizeof flags); \
        r = fma(x, y, (type)0.7); if (r == r) mix((void *)&r, size); \
        r = fmod(x, y); if (r == r) mix((void *)&r, size); r = remainder(x, y); if (r == r) mix((void *)&r, size); \
        int c = (x < y) | (x <= y) << 1 | (x == y) << 2 | (x != y) << 3 | !!isunordered(x, y) << 4; mix(&c, sizeof c); \
        if (fabs((double)x) < 1e18) { long long i = x; mix(&i, sizeof i); unsigned u = (unsigned)(long long)x; mix(&u, sizeof u); } \
        float f = x; double d = x; mix(&f, 4); mix(&d, 8); \
    } \
    printf("  " #type " %016llx\n", (unsigned long long)hash); \
}
TYPE(float, 4, singles, sqrtf, fmaf, fmodf, rintf, remainderf)
TYPE(double, 8, doubles, sqrt, fma, fmod, rint, remainder)
TYPE(long double, 10, extended, sqrtl, fmal, fmodl, rintl, remainderl)

int main(void) {
    int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (int m = 0; m < 4; m++) {
        fesetround(modes[m]);
        printf("rounding %d\n", m);
        singles(); doubles(); extended();
    }
    fesetround(FE_TONEAREST);
    for (int n = -20; n <= 20; n++) {
        double x = n / 3.0;
        printf("%.12g %.12g %.12g %.12g %.12g %.12g %.12g %.12g %.12g\n", sin(x), cos(x), tan(x), exp(x),
            log(fabs(x) + .5), pow(fabs(x), 1.7), atan2(x, 2), sinh(x), tgamma(fabs(x) / 4 + .5));
        long double l = n / 7.0L;
        printf("%.15Lg %.15Lg %.15Lg %.15Lg %.15Lg\n", sinl(l), expl(l), atanl(l), log1pl(fabsl(l)), cbrtl(l));
    }
    char text[64];
    for (unsigned a = 0; a < COUNT; a++) {
        snprintf(text, sizeof text, "%a %.17g %.3Lf", values[a], values[a], (long double)values[a] / 3);
        printf("%s %d\n", text, strtod(text, 0) == values[a]);
    }
    uint64_t seed = 1;
    for (int n = 0; n < 20000; n++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        double d; memcpy(&d, &seed, 8);
        if (!(d == d)) continue;
        snprintf(text, sizeof text, "%.17g", d);
        double e = strtod(text, 0);
        if (memcmp(&d, &e, 8)) { printf("read back wrong: %s\n", text); return 1; }
        mix(text, strlen(text));
    }
    printf("text %016llx\n", (unsigned long long)hash);
    return 0;
}
