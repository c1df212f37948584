/* Faults as signals: number, code and address; single steps; registers kept across handlers. */
#define _GNU_SOURCE
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int number, code;
static volatile uintptr_t address;
static volatile int steps;

static void caught(int n, siginfo_t *info, void *context) {
    number = n; code = info->si_code; address = (uintptr_t)info->si_addr;
    (void)context;
    siglongjmp(back, 1);
}
static void step(int n, siginfo_t *info, void *context) {
    (void)n; (void)info; (void)context;
    steps++;
    /* The handler's own arithmetic must not be seen outside. */
    volatile double d = steps; d = d / 3; __asm__ volatile("pcmpeqd %%xmm0,%%xmm0" ::: "xmm0");
}
/* The address is told relative to a base; without one it is the instruction's own, or undefined. */
#define TRY(what, base, ...) do { \
    number = code = 0; address = 0; \
    if (!sigsetjmp(back, 1)) { __VA_ARGS__; } \
    printf("%-28s signal %d code %d address %ld\n", what, number, code, (uintptr_t)(base) ? (long)(address - (uintptr_t)(base)) : 0); \
} while (0)

static volatile int zero;
int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    static char stack[1 << 16];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, 0);
    int all[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS, SIGTRAP};
    for (unsigned n = 0; n < 5; n++) sigaction(all[n], &action, 0);
    long page = 4096;
    char *pages = mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 0xc3, 4 * page);
    mprotect(pages + page, page, PROT_READ);
    mprotect(pages + 2 * page, page, PROT_NONE);
    volatile char *p = pages;
    TRY("divide by zero", 0, { volatile int x = 1 / zero; (void)x; });
    TRY("divide overflow", 0, { volatile int m = -1, x = (-2147483647 - 1) / m; (void)x; });
    TRY("write to read-only", pages, p[page + 5] = 1);
    TRY("read of nothing", pages, (void)p[2 * page + 9]);
    TRY("read across into nothing", pages, { volatile uint64_t *q = (void *)(pages + 2 * page - 3); (void)*q; });
    TRY("write across into read-only", pages, { volatile uint64_t *q = (void *)(pages + page - 3); *q = 1; });
    TRY("execute without right", pages, ((void (*)(void))pages)());
    TRY("null", 0, { volatile char *z = (char *)(uintptr_t)zero; *z = 1; });
    TRY("not canonical", 0, { volatile char *z = (char *)(0x123456789abcdef0 + zero); (void)*z; });
    TRY("ud2", 0, { __asm__ volatile("ud2"); });
    TRY("hlt", 0, { __asm__ volatile("hlt"); });
    TRY("cli", 0, { __asm__ volatile("cli"); });
    TRY("in", 0, { __asm__ volatile("in $0x80,%%al" ::: "rax"); });
    TRY("mov from cr0", 0, { uint64_t x; __asm__ volatile("mov %%cr0,%0" : "=r"(x)); });
    TRY("int3", 0, { __asm__ volatile("int3"); });
    TRY("int 0x42", 0, { __asm__ volatile("int $0x42"); });
    TRY("movaps misaligned", 0, { __asm__ volatile("movaps 1(%0),%%xmm1" :: "r"(pages) : "xmm1"); });
    TRY("sse divide by zero", 0, { feclearexcept(FE_ALL_EXCEPT); feenableexcept(FE_DIVBYZERO); volatile double a = 1, b = zero; a /= b; });
    fedisableexcept(FE_ALL_EXCEPT);
    TRY("x87 invalid", 0, { feclearexcept(FE_ALL_EXCEPT); feenableexcept(FE_INVALID); volatile long double a = zero; a /= zero; __asm__ volatile("fwait"); });
    fedisableexcept(FE_ALL_EXCEPT); feclearexcept(FE_ALL_EXCEPT);
    __asm__ volatile("sub $128,%%rsp; pushfq; andl $0xfffbffff,(%%rsp); popfq; add $128,%%rsp" ::: "memory", "cc");

    action.sa_sigaction = step; sigaction(SIGTRAP, &action, 0);
    uint64_t sum = 0; double d = 1;
    __asm__ volatile(
        "sub $128,%%rsp\n pushfq\n orl $0x100,(%%rsp)\n popfq\n"
        "mov $20,%%ecx\n 1: add %%rcx,%0\n adc $3,%0\n addsd %1,%1\n dec %%ecx\n jnz 1b\n"
        "pushfq\n andl $0xfffffeff,(%%rsp)\n popfq\n add $128,%%rsp\n nop\n"
        : "+r"(sum), "+x"(d) :: "rcx", "cc", "memory");
    printf("single steps %d, sum %lu, %g\n", steps, sum, d);

    mprotect(pages + page, page, PROT_READ | PROT_WRITE);
    action.sa_sigaction = caught; sigaction(SIGTRAP, &action, 0);
    TRY("rep stosb into nothing", pages, {
        uintptr_t di = (uintptr_t)pages + page - 100, cx = 3 * page;
        __asm__ volatile("rep stosb" : "+D"(di), "+c"(cx) : "a"(7) : "memory");
    });
    printf("stored %d %d\n", pages[2 * page - 1], pages[page - 101] == 7);
    return 0;
}
