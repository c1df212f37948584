/* Code written at run time: fresh functions, changes of the next instruction, of a loop that runs,
   of a page mapped twice, and by another thread. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int (*function)(void);
static unsigned char *code;

static void constant(unsigned char *at, int value) { /* mov eax, value; ret */
    at[0] = 0xb8; memcpy(at + 1, &value, 4); at[5] = 0xc3;
}
static void *writer(void *argument) {
    unsigned char *at = argument;
    for (int n = 1; n <= 2000; n++) __atomic_store_n((int *)(at + 4), n, __ATOMIC_SEQ_CST);
    return 0;
}
int main(void) {
    code = mmap(0, 1 << 16, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long sum = 0;
    for (int n = 0; n < 20000; n++) {
        unsigned char *at = code + n % 700 * 13;
        constant(at, n);
        sum += ((function)at)();
    }
    printf("rewritten functions %ld\n", sum);

    /* Over a page end. */
    for (int n = 0; n < 6; n++) {
        unsigned char *at = code + 0x3000 - n;
        for (int k = 0; k < 100; k++) { constant(at, k * 77 + n); sum += ((function)at)(); }
    }
    printf("over a page end %ld\n", sum);

    /* The next instruction: mov byte [rip+1], 5 -> changes the immediate of the mov behind it. */
    static const unsigned char next[] = {0x40, 0x88, 0x3d, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code, next, sizeof next);
    for (int n = 0; n < 300; n++) sum += ((int (*)(int))code)(n % 256);
    printf("the next instruction %ld\n", sum);

    /* A loop that counts its own immediate up: 1: add eax, 1; inc byte [rip-X]; dec ecx; jnz 1b */
    static const unsigned char loop[] = {0x31, 0xc0, 0xb9, 100, 0, 0, 0, 0x05, 1, 0, 0, 0,
        0xfe, 0x05, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf1, 0xc3};
    memcpy(code, loop, sizeof loop);
    printf("a loop that changes itself %d\n", ((function)code)());

    /* Two mappings of one page. */
    int file = memfd_create("code", 0);
    if (ftruncate(file, 4096)) return 1;
    unsigned char *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned char *x = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    for (int n = 0; n < 5000; n++) { constant(w + n % 32, n); sum += ((function)(x + n % 32))(); }
    printf("two mappings %ld\n", sum);
    /* By a system call of the kernel. */
    for (int n = 0; n < 500; n++) {
        unsigned char f[6]; constant(f, n);
        if (pwrite(file, f, 6, 64) != 6) return 1;
        sum += ((function)(x + 64))();
    }
    printf("by the kernel %ld\n", sum);
    /* Another mapping in the place of the first. */
    for (int n = 0; n < 200; n++) {
        unsigned char *again = mmap(x, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        constant(again, n); sum += ((function)again)();
    }
    printf("mapped over %ld\n", sum);

    /* mov eax, imm32 at an aligned place, changed by another thread. */
    unsigned char *at = code + 0x5000;
    memset(at, 0x90, 16); at[3] = 0xb8; memset(at + 4, 0, 4); at[8] = 0xc3;
    pthread_t thread;
    pthread_create(&thread, 0, writer, at);
    int last = 0, now = 0, backwards = 0;
    while (last < 2000) { now = ((function)at)(); backwards += now < last; last = now; }
    pthread_join(thread, 0);
    printf("by another thread %d, backwards %d\n", last, backwards);
    return 0;
}
