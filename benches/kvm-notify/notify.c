/* What a virtio notification costs under KVM without an interrupt controller in the kernel:
 *   exit       the port write comes out to the processor's thread, which serves it and enters again
 *   ioeventfd  the kernel takes the write; the guest goes on
 *   worker     ioeventfd, and a worker thread that waits for it, serves it, and brings the processor
 *              out of the guest by a signal, to inject the interrupt: what irqfd would do in the
 *              kernel, if the kernel had the interrupt controller
 * cc -O2 -pthread notify.c && ./a.out */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 2000, NOTIFY = 0x20, END = 0x30, FLAG = 0x500 };

static int vm, vcpu, event;
static struct kvm_run *run;
static volatile uint8_t *ram;
static pid_t thread;

static void die(const char *what) { perror(what); exit(1); }
static void on_signal(int n) { (void)n; }
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void *worker(void *unused) {
    uint64_t n;
    (void)unused;
    while (read(event, &n, 8) == 8) {
        ram[FLAG] = 1;
        run->immediate_exit = 1;
        syscall(SYS_tgkill, getpid(), thread, SIGUSR1);
    }
    return 0;
}

/* Runs the code to its end; microseconds a round. */
static double timed(const uint8_t *code, size_t size) {
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = 0x1000, .rflags = 2, .rcx = ROUNDS};
    memcpy((void *)(ram + 0x1000), code, size);
    ioctl(vcpu, KVM_GET_SREGS, &s);
    s.cs.base = s.ds.base = s.es.base = s.ss.base = 0;
    s.cs.selector = s.ds.selector = s.es.selector = s.ss.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(vcpu, KVM_SET_REGS, &r) < 0) die("state");
    double start = now();
    for (;;) {
        run->immediate_exit = 0;
        if (ioctl(vcpu, KVM_RUN, 0) < 0) continue; /* a kick */
        if (run->exit_reason != KVM_EXIT_IO) { fprintf(stderr, "exit %u\n", run->exit_reason); exit(1); }
        if (run->io.port == END) break;
    }
    return (now() - start) / ROUNDS;
}

int main(void) {
    /* out NOTIFY, al; loop; out END, al */
    static const uint8_t notify[] = {0xe6, NOTIFY, 0xe2, 0xfc, 0xe6, END};
    /* out NOTIFY, al; 1: cmp byte [FLAG], 0; je 1b; mov byte [FLAG], 0; loop; out END, al */
    static const uint8_t wait[] = {0xe6, NOTIFY, 0x80, 0x3e, 0, 5, 0, 0x74, 0xf9, 0xc6, 6, 0, 5, 0, 0xe2, 0xf0, 0xe6, END};
    int kvm = open("/dev/kvm", O_RDWR);
    if (kvm < 0) die("/dev/kvm");
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    ram = mmap(0, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {.memory_size = 0x10000, .userspace_addr = (uint64_t)ram};
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0) die("memory");
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    run = mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) die("processor");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, 0);
    thread = syscall(SYS_gettid);
    timed(notify, sizeof notify);
    printf("exit       %6.1f us\n", timed(notify, sizeof notify));
    event = eventfd(0, 0);
    struct kvm_ioeventfd io = {.addr = NOTIFY, .len = 1, .fd = event, .flags = KVM_IOEVENTFD_FLAG_PIO};
    if (ioctl(vm, KVM_IOEVENTFD, &io) < 0) die("KVM_IOEVENTFD");
    printf("ioeventfd  %6.1f us\n", timed(notify, sizeof notify));
    uint64_t n;
    if (read(event, &n, 8) != 8) die("eventfd");
    pthread_t w;
    pthread_create(&w, 0, worker, 0);
    printf("worker     %6.1f us\n", timed(wait, sizeof wait));
    return 0;
}
