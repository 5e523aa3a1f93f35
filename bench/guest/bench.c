/* Runs one workload: bench NAME [PER CENT of the default work], or bench list.
 * Prints: @@R NAME wall=S user=S sys=S n=WORK sum=CHECKSUM [more] */
#define _GNU_SOURCE
#include "kernels.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static char extra[256];
static double xwall = -1;
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static const char *env(const char *k, const char *d) {
    const char *v = getenv(k);
    return v && *v ? v : d;
}
static void die(const char *m) {
    perror(m);
    exit(9);
}

static const char *D(void) {
    return env("BENCHDIR", "/tmp");
}
static char *P(const char *n) {
    static char b[4][256];
    static int k;
    k = (k + 1) & 3;
    snprintf(b[k], 256, "%s/%s", D(), n);
    return b[k];
}
static int cmpu(const void *a, const void *b) {
    u32 x = *(u32 *)a, y = *(u32 *)b;
    return x < y ? -1 : x > y;
}
static u64 w_qsort(u64 n) {
    u32 *a = malloc(n * 4);
    u64 s = 3;
    for (u64 i = 0; i < n; i++)
        a[i] = xs(&s);
    qsort(a, n, 4, cmpu);
    u64 r = 0;
    for (u64 i = 0; i < n; i += 997)
        r = r * 31 + a[i];
    return r;
}
static u64 w_memcpy(u64 n) {
    char *a = malloc(3 << 20), *d = a + (1 << 20) + 37 * 4096;
    memset(a, 1, 3 << 20);
    for (u64 i = 0; i < n; i++) {
        memcpy(d, a, 1 << 20);
        __asm__ volatile("" ::"r"(a) : "memory");
        a[i & 0xfff]++;
    }
    return d[7];
}
static u64 w_memset(u64 n) {
    char *a = malloc(1 << 20);
    for (u64 i = 0; i < n; i++) {
        memset(a, (int)i, 1 << 20);
        __asm__ volatile("" ::"r"(a) : "memory");
    }
    return a[77];
}
static u64 w_libm(u64 n) {
    double t = 0;
    for (u64 i = 1; i <= n; i++) {
        double x = i * 1e-3;
        t += sin(x) * exp(-x * 1e-4) + log(x) + pow(x, .37);
    }
    union {
        double d;
        u64 u;
    } u;
    u.d = t;
    return u.u;
}
static u64 w_str(u64 n) {
    char *a = malloc(4096), *b = malloc(4096);
    u64 r = 0;
    memset(a, 'x', 4096);
    for (u64 i = 0; i < n; i++) {
        int l = 16 + (i * 7) % 200;
        a[l] = 0;
        r += strlen(a);
        strcpy(b, a);
        r += !strcmp(a, b);
        r += (u64)(strchr(b, 'y') != 0);
        a[l] = 'x';
    }
    return r;
}
static u64 w_smc(u64 n) {
    u8 *p = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("rwx");
    u64 r = 0; /* patch code, call it: guest JIT */
    for (u64 i = 0; i < n; i++) {
        u8 *q = p + (i & 31) * 64;
        q[0] = 0xb8;
        *(u32 *)(q + 1) = (u32)i;
        q[5] = 0xc3;
        r += ((u32 (*)(void))q)();
    }
    return r;
}
/* system */
static u64 w_getpid(u64 n) {
    u64 r = 0;
    for (u64 i = 0; i < n; i++)
        r += syscall(SYS_getppid) != 0;
    return n;
}
static u64 w_gettime(u64 n) {
    struct timespec t;
    for (u64 i = 0; i < n; i++)
        clock_gettime(CLOCK_MONOTONIC, &t);
    return n;
}
static u64 w_pipe(u64 n) {
    int a[2], b[2];
    char c = 1;
    if (pipe(a) || pipe(b))
        die("pipe");
    pid_t p = fork();
    if (!p) {
        for (u64 i = 0; i < n; i++) {
            if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    for (u64 i = 0; i < n; i++) {
        if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1)
            die("pp");
    }
    waitpid(p, 0, 0);
    return n;
}
static u64 w_forkexec(u64 n) {
    for (u64 i = 0; i < n; i++) {
        pid_t p = fork();
        if (!p) {
            execl("/proc/self/exe", "bench", "true", (char *)0);
            _exit(1);
        }
        int st;
        waitpid(p, &st, 0);
        if (st)
            die("exec");
    }
    return n;
}
static u64 w_fork(u64 n) {
    for (u64 i = 0; i < n; i++) {
        pid_t p = fork();
        if (!p)
            _exit(0);
        waitpid(p, 0, 0);
    }
    return n;
}
static u64 w_mmap(u64 n) {
    u64 r = 0;
    for (u64 i = 0; i < n; i++) {
        u8 *p = mmap(0, 256 << 10, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int k = 0; k < (256 << 10); k += 4096) {
            p[k] = 1;
            r += p[k];
        }
        munmap(p, 256 << 10);
    }
    return r;
}
static u64 sigc;
static void onsig(int s) {
    (void)s;
    sigc++;
}
static u64 w_signal(u64 n) {
    signal(SIGUSR1, onsig);
    pid_t me = getpid();
    for (u64 i = 0; i < n; i++)
        kill(me, SIGUSR1);
    return sigc;
}
static u64 w_file(u64 n) {
    char b[4096];
    memset(b, 5, sizeof b);
    mkdir(P("f"), 0755);
    for (u64 i = 0; i < n; i++) {
        char nm[256];
        sprintf(nm, "%s/f/%lu", D(), i & 255);
        int f = open(nm, O_CREAT | O_RDWR | O_TRUNC, 0644);
        if (f < 0)
            die(nm);
        for (int k = 0; k < 4; k++)
            if (write(f, b, 4096) != 4096)
                die("w");
        struct stat st;
        fstat(f, &st);
        lseek(f, 0, 0);
        while (read(f, b, 4096) > 0)
            ;
        close(f);
        if (i & 1)
            unlink(nm);
    }
    return n;
}
static void gen(const char *p, u64 bytes) {
    int f = open(p, O_CREAT | O_RDWR | O_TRUNC, 0644);
    if (f < 0)
        die(p);
    static u8 b[65536];
    u64 s = 11;
    static const char *W[16] = {"the ",       "quick ", "value", "=0x",     "\n",  "vmm ",
                                "translate ", "block",  "(int)", "return ", ";\n", "    ",
                                "page ",      "fault ", "00",    "cache "};
    for (u64 o = 0; o < bytes; o += sizeof b) {
        u32 k = 0;
        while (k < sizeof b) {
            u64 r = xs(&s);
            if ((r & 31) == 0) {
                b[k++] = (u8)(r >> 8);
                continue;
            }
            const char *w = W[(r >> 5) & 15];
            while (*w && k < sizeof b)
                b[k++] = (u8)*w++;
        }
        if (write(f, b, sizeof b) != sizeof b)
            die("gen");
    }
    close(f);
}
static int sh(const char *fmt, ...) {
    char c[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c, sizeof c, fmt, ap);
    va_end(ap);
    pid_t p = fork();
    if (!p) {
        execl("/bin/sh", "sh", "-c", c, (char *)0);
        execl("/bin/busybox", "sh", "-c", c, (char *)0);
        _exit(127);
    }
    int st;
    waitpid(p, &st, 0);
    if (st) {
        fprintf(stderr, "cmd failed %d: %s\n", st, c);
        exit(8);
    }
    return 0;
}
static u64 fsz(const char *p) {
    struct stat s;
    return stat(p, &s) ? 0 : (u64)s.st_size;
}
#define PREP_RU()                                                                                            \
    do {                                                                                                     \
        xwall = now();                                                                                       \
        getrusage(RUSAGE_SELF, &ru0);                                                                        \
        getrusage(RUSAGE_CHILDREN, &rc0);                                                                    \
        printf("@@P\n");                                                                                     \
        fflush(stdout);                                                                                      \
    } while (0)
static struct rusage ru0, rc0;
static const char *BB(void) {
    return access("/bin/busybox", X_OK) ? env("BUSYBOX", "busybox") : "/bin/busybox";
}
static u64 w_gzip(u64 n) {
    gen(P("g.in"), n << 20);
    PREP_RU();
    sh("cd %s;%s gzip -c <g.in >g.gz", D(), BB());
    u64 r = fsz(P("g.gz"));
    sh("cd %s;%s gunzip -c <g.gz >g.out", D(), BB());
    r ^= fsz(P("g.out"));
    unlink(P("g.in"));
    unlink(P("g.gz"));
    unlink(P("g.out"));
    return r;
}
static u64 w_xz(u64 n) {
    gen(P("x.in"), n << 20);
    PREP_RU();
    sh("cd %s;%s -1 -T1 -c <x.in >x.xz", D(), access("/usr/bin/xz", 1) ? "/bin/xz" : "/usr/bin/xz");
    u64 r = fsz(P("x.xz"));
    unlink(P("x.in"));
    unlink(P("x.xz"));
    return r;
}
static u64 w_tar(u64 n) {
    mkdir(P("t"), 0755);
    char b[8192];
    memset(b, 't', sizeof b);
    for (u64 i = 0; i < n; i++) {
        char d[256];
        if (!(i % 50)) {
            sprintf(d, "%s/t/%lu", D(), i / 50);
            mkdir(d, 0755);
        }
        sprintf(d, "%s/t/%lu/%lu", D(), i / 50, i);
        int f = open(d, O_CREAT | O_WRONLY, 0644);
        if (write(f, b, 512 + (i * 977) % 7600) < 0)
            die("t");
        close(f);
    }
    PREP_RU();
    sh("cd %s;%s tar cf t.tar t;%s rm -rf t;%s tar xf t.tar;%s rm -rf t", D(), BB(), BB(), BB(), BB());
    u64 r = fsz(P("t.tar"));
    unlink(P("t.tar"));
    return r;
}
static u64 w_shell(u64 n) {
    sh("exec %s sh -c 'i=0;while [ $i -lt %lu ];do i=$((i+1));x=$(echo $i);case $x in *7) y=$x;;esac;done'",
       BB(), n);
    return n;
}
static u64 w_lua(u64 n) {
    sh("lua5.4 %s %lu", env("LUASCRIPT", "/bin/bench.lua"), n);
    return n;
}
/* SMP */
struct th {
    pthread_t t;
    int cpu;
    u64 n, r;
    void *mem;
};
static volatile u64 shared;
static void *th_core(void *a) {
    struct th *t = a;
    cpu_set_t s;
    CPU_ZERO(&s);
    CPU_SET(t->cpu, &s);
    sched_setaffinity(0, sizeof s, &s);
    t->r = core_at(t->n, t->mem);
    return 0;
}
static void *th_atom(void *a) {
    struct th *t = a;
    cpu_set_t s;
    CPU_ZERO(&s);
    CPU_SET(t->cpu, &s);
    sched_setaffinity(0, sizeof s, &s);
    for (u64 i = 0; i < t->n; i++)
        __sync_fetch_and_add(&shared, 1);
    return 0;
}
static u64 two(void *(*f)(void *), u64 n) {
    struct th t[2];
    for (int i = 0; i < 2; i++) {
        t[i].cpu = i;
        t[i].n = n;
        t[i].mem = arena + (i << 20);
        pthread_create(&t[i].t, 0, f, &t[i]);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(t[i].t, 0);
    return t[0].r * 2 + t[1].r;
}
static u64 w_smp2(u64 n) {
    return two(th_core, n);
}
static u64 w_atomic2(u64 n) {
    two(th_atom, n);
    return shared;
}
/* I/O (skipped in "all"): BLK=/dev/vda, NETHOST/NETPORT of a sink/echo server */
static int blk(int fl, u64 *sz) {
    int f = open(env("BLK", "/dev/vda"), fl | O_DIRECT);
    if (f < 0)
        die("blk");
    *sz = 0;
    if (ioctl(f, BLKGETSIZE64, sz)) {
        struct stat s;
        fstat(f, &s);
        *sz = s.st_size;
    }
    return f;
}
static u64 blkseq(u64 mib, int wr) {
    u64 sz;
    int f = blk(wr ? O_RDWR : O_RDONLY, &sz);
    u8 *b = aligned_alloc(4096, 1 << 20);
    memset(b, 0x5a, 1 << 20);
    double t = now();
    u64 o = 0;
    for (u64 i = 0; i < mib; i++) {
        if (o + (1 << 20) > sz)
            o = 0;
        ssize_t r = wr ? pwrite(f, b, 1 << 20, o) : pread(f, b, 1 << 20, o);
        if (r != 1 << 20)
            die("io");
        o += 1 << 20;
    }
    if (wr)
        fsync(f);
    t = now() - t;
    sprintf(extra, "MBps=%.1f", mib * 1.048576 / t);
    return b[9];
}
static u64 w_blkread(u64 n) {
    return blkseq(n, 0);
}
static u64 w_blkwrite(u64 n) {
    return blkseq(n, 1);
}
static u64 blkrand(u64 n, int wr) {
    u64 sz, s = 17;
    int f = blk(wr ? O_RDWR : O_RDONLY, &sz);
    u8 *b = aligned_alloc(4096, 4096);
    memset(b, 1, 4096);
    double t = now();
    for (u64 i = 0; i < n; i++) {
        u64 o = (xs(&s) % (sz / 4096)) * 4096;
        if ((wr ? pwrite(f, b, 4096, o) : pread(f, b, 4096, o)) != 4096)
            die("rnd");
    }
    t = now() - t;
    sprintf(extra, "iops=%.0f", n / t);
    return n;
}
static u64 w_blkrandr(u64 n) {
    return blkrand(n, 0);
}
static u64 w_blkrandw(u64 n) {
    return blkrand(n, 1);
}
static int conn(int off) {
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(env("NETPORT", "5001")) + off)};
    inet_pton(AF_INET, env("NETHOST", "10.0.2.2"), &a.sin_addr);
    if (connect(s, (void *)&a, sizeof a))
        die("connect");
    setsockopt(s, 6, TCP_NODELAY, &one, 4);
    return s;
}
static u64 w_netsend(u64 n) {
    int s = conn(0);
    static u8 b[65536];
    double t = now();
    for (u64 i = 0; i < n * 16; i++) {
        u64 o = 0;
        while (o < sizeof b) {
            ssize_t r = write(s, b + o, sizeof b - o);
            if (r <= 0)
                die("send");
            o += r;
        }
    }
    shutdown(s, SHUT_WR);
    if (read(s, b, 1) < 0)
        die("ack");
    t = now() - t;
    sprintf(extra, "MBps=%.1f", n * 1.048576 / t);
    return n;
}
static u64 w_netrecv(u64 n) {
    int s = conn(2);
    static u8 b[65536];
    u64 want = n << 20, got = 0;
    if (write(s, &want, 8) != 8)
        die("w");
    double t = now();
    while (got < want) {
        ssize_t r = read(s, b, sizeof b);
        if (r <= 0)
            die("recv");
        got += r;
    }
    t = now() - t;
    sprintf(extra, "MBps=%.1f", n * 1.048576 / t);
    return got;
}
static u64 w_netping(u64 n) {
    int s = conn(1);
    char c = 1;
    double t = now();
    for (u64 i = 0; i < n; i++)
        if (write(s, &c, 1) != 1 || read(s, &c, 1) != 1)
            die("ping");
    t = now() - t;
    sprintf(extra, "rtt_us=%.1f", t / n * 1e6);
    return n;
}
static u64 w_serial(u64 n) {
    char l[64];
    memset(l, 's', 63);
    l[63] = '\n';
    int f = open(env("SERIAL", "/dev/ttyS0"), O_WRONLY | O_NOCTTY);
    if (f < 0)
        f = 1;
    double t = now();
    for (u64 i = 0; i < n * 16; i++)
        if (write(f, l, 64) != 64)
            die("ser");
    ioctl(f, 0x5409 /*TCSBRK*/, 1);
    t = now() - t;
    sprintf(extra, "kBps=%.1f", n * 1.024 / t);
    return n;
}
static u64 w_idle(u64 n) {
    sleep(n);
    return 0;
}
static u64 w_true(u64 n) {
    return n;
}
static const struct kern T[] = {KERNELS,
                                {"qsort", w_qsort, 4000000},
                                {"memcpy", w_memcpy, 10000},
                                {"memset", w_memset, 20000},
                                {"libm", w_libm, 15000000},
                                {"str", w_str, 16000000},
                                {"smc", w_smc, 300000},
                                {"lua", w_lua, 100},
                                {"getpid", w_getpid, 5000000},
                                {"gettime", w_gettime, 10000000},
                                {"pipe", w_pipe, 100000},
                                {"forkexec", w_forkexec, 1000},
                                {"fork", w_fork, 5000},
                                {"mmap", w_mmap, 12000},
                                {"signal", w_signal, 500000},
                                {"file", w_file, 30000},
                                {"gzip", w_gzip, 16},
                                {"xz", w_xz, 16},
                                {"tar", w_tar, 5000},
                                {"shell", w_shell, 4000},
                                {"smp2", w_smp2, 20000},
                                {"atomic2", w_atomic2, 20000000},
                                {"blkread", w_blkread, 512},
                                {"blkwrite", w_blkwrite, 512},
                                {"blkrandr", w_blkrandr, 20000},
                                {"blkrandw", w_blkrandw, 20000},
                                {"netsend", w_netsend, 256},
                                {"netrecv", w_netrecv, 256},
                                {"netping", w_netping, 10000},
                                {"serial", w_serial, 512},
                                {"idle", w_idle, 5},
                                {"true", w_true, 0}};
int main(int c, char **v) {
    if (c < 2 || !strcmp(v[1], "list")) {
        for (u64 i = 0; i < sizeof T / sizeof *T; i++)
            printf("%s%s", i ? "," : "", T[i].name);
        puts("");
        return 0;
    }
    if (!strcmp(v[1], "true"))
        return 0;
    double sc = c > 2 ? atof(v[2]) / 100 : 1;
    for (u64 i = 0; i < sizeof T / sizeof *T; i++)
        if (!strcmp(T[i].name, v[1])) {
            if (!strncmp(v[1], "matavx", 6) && !__builtin_cpu_supports("fma")) {
                printf("@@R %s skip=nofma\n", v[1]);
                return 0;
            }
            if (!strcmp(v[1], "aesni") && !__builtin_cpu_supports("aes")) {
                printf("@@R %s skip=noaes\n", v[1]);
                return 0;
            }
            u64 n = (u64)(T[i].n * sc);
            if (!strcmp(v[1], "fib"))
                n = T[i].n - (sc < .4 ? 4 : 0);
            struct rusage a, b;
            double t = now();
            u64 s = T[i].f(n);
            double e = now();
            getrusage(RUSAGE_SELF, &a);
            getrusage(RUSAGE_CHILDREN, &b);
            if (xwall >= 0)
                t = xwall;
#define TV(x) ((x).tv_sec + (x).tv_usec * 1e-6)
            printf("@@R %s wall=%.6f user=%.6f sys=%.6f n=%lu sum=%lx %s\n", v[1], e - t,
                   TV(a.ru_utime) + TV(b.ru_utime) - TV(ru0.ru_utime) - TV(rc0.ru_utime),
                   TV(a.ru_stime) + TV(b.ru_stime) - TV(ru0.ru_stime) - TV(rc0.ru_stime), n, s, extra);
            return 0;
        }
    fprintf(stderr, "unknown %s\n", v[1]);
    return 2;
}
