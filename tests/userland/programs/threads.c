/* Threads: locked operations of every size, CMPXCHG16B, the order of stores, mutexes and condition
   variables, thread-local storage, fork beside threads. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS 20000
static _Atomic uint8_t a8; static _Atomic uint16_t a16; static _Atomic uint32_t a32; static _Atomic uint64_t a64;
static _Atomic uint64_t bits; static uint64_t plain;
static __int128 wide __attribute__((aligned(16)));
static char crossing[128] __attribute__((aligned(64)));
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int turn;
static __thread long own;

static void add_wide(uint64_t n) {
    uint64_t lo = ((uint64_t *)&wide)[0], hi = ((uint64_t *)&wide)[1];
    unsigned char done;
    do {
        unsigned __int128 next = ((unsigned __int128)hi << 64 | lo) + ((unsigned __int128)n << 32 | n);
        __asm__ volatile("lock cmpxchg16b %1; setz %0" : "=q"(done), "+m"(wide), "+a"(lo), "+d"(hi)
            : "b"((uint64_t)next), "c"((uint64_t)(next >> 64)) : "cc", "memory");
    } while (!done);
}
static void *work(void *argument) {
    long me = (long)argument;
    for (int n = 0; n < ROUNDS; n++) {
        a8++; a16 += 3; a32 -= 5; a64 ^= (uint64_t)n << me; add_wide(n);
        /* Few that cross a cache line: hosts slow them down on purpose. */
        if (n % 4000 == 0) __asm__ volatile("lock addq $1,%0" : "+m"(*(uint64_t *)(crossing + 60)) :: "cc", "memory");
        bits |= 1ull << n % 64; own += n;
        pthread_mutex_lock(&mutex); plain += n; pthread_mutex_unlock(&mutex);
    }
    for (int n = 0; n < 200; n++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != me) pthread_cond_wait(&condition, &mutex);
        turn++;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    return (void *)own;
}
/* Message passing: x86 keeps the order of stores and of loads. */
static volatile int data, flag;
static void *sender(void *argument) {
    (void)argument;
    for (int n = 1; n <= 20000; n++) { data = n; __asm__ volatile("" ::: "memory"); flag = n; }
    return 0;
}
int main(void) {
    pthread_t t[THREADS]; long sum = 0;
    for (long n = 0; n < THREADS; n++) pthread_create(&t[n], 0, work, (void *)n);
    for (int n = 0; n < THREADS; n++) { void *r; pthread_join(t[n], &r); sum += (long)r; }
    printf("%u %u %u %llx %llx %llx%016llx %lu %lu %d %ld\n", a8, a16, a32, (long long)a64, (long long)bits,
        (long long)(wide >> 64), (long long)wide, *(uint64_t *)(crossing + 60), plain, turn, sum);
    pthread_t s;
    pthread_create(&s, 0, sender, 0);
    int wrong = 0;
    for (int f = 0; f < 20000;) { f = flag; int d = data; wrong += d < f; }
    pthread_join(s, 0);
    printf("out of order %d\n", wrong);
    int failed = 0;
    for (int n = 0; n < 50; n++) {
        pid_t child = fork();
        if (!child) { own = n; _exit(n & 127); }
        int status; waitpid(child, &status, 0);
        failed += !WIFEXITED(status) || WEXITSTATUS(status) != (n & 127);
    }
    printf("children that failed %d\n", failed);
    return 0;
}
