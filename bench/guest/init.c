/* PID 1 of the benchmark guest. Reads the kernel command line:
 *   bench=a,b,c   workloads in order ("x.v3" = the -march=x86-64-v3 build); bench=none
 *                 "x:P" = P per cent of the default work for this one
 *                 "x*N" = N copies at once, each on a processor of its own
 *   bench_scale=P per cent of the default work      bench_reps=N   repeat the list
 *   bench_mods=a,b insmod /lib/mods/a.ko ...        bench_net=1    configure eth0 10.0.2.15/24
 *   bench_hold=S  sleep S s before power off (marker @@HOLD)      bench_end=poweroff|reboot|halt
 *   bench_env=K:V,K:V extra environment
 * Markers on the console: @@INIT, @@B name, @@P (set-up over), @@R result, @@E name rc wall, @@HOLD, @@END */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static char cl[4096];
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static char *opt(const char *k, char *d) {
    static char b[16][1024];
    static int n;
    size_t l = strlen(k);
    for (char *p = cl; *p;) {
        while (*p == ' ' || *p == '\n')
            p++;
        size_t e = strcspn(p, " \n");
        if (e > l && !strncmp(p, k, l) && p[l] == '=') {
            char *o = b[n++ & 15];
            snprintf(o, 1024, "%.*s", (int)(e - l - 1), p + l + 1);
            return o;
        }
        p += e;
    }
    return d;
}
static void cat(const char *p, char *b, size_t n) {
    int f = open(p, O_RDONLY);
    ssize_t r = f < 0 ? 0 : read(f, b, n - 1);
    b[r < 0 ? 0 : r] = 0;
    if (f >= 0)
        close(f);
}
static void ins(const char *n) {
    char p[128];
    snprintf(p, sizeof p, "/lib/mods/%s.ko", n);
    int f = open(p, O_RDONLY | O_CLOEXEC);
    if (f < 0 || syscall(SYS_finit_module, f, "", 0))
        printf("@@W mod %s\n", n);
    if (f >= 0)
        close(f);
}
static void net(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq r;
    struct sockaddr_in *a = (void *)&r.ifr_addr;
    for (int i = 0; i < 2; i++) {
        memset(&r, 0, sizeof r);
        strcpy(r.ifr_name, i ? "eth0" : "lo");
        a->sin_family = AF_INET;
        inet_pton(AF_INET, i ? "10.0.2.15" : "127.0.0.1", &a->sin_addr);
        if (ioctl(s, SIOCSIFADDR, &r))
            perror("addr");
        inet_pton(AF_INET, i ? "255.255.255.0" : "255.0.0.0", &a->sin_addr);
        ioctl(s, SIOCSIFNETMASK, &r);
        ioctl(s, SIOCGIFFLAGS, &r);
        r.ifr_flags |= IFF_UP | IFF_RUNNING;
        if (ioctl(s, SIOCSIFFLAGS, &r))
            perror("up");
    }
    close(s);
}
int main(void) {
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 01777);
    mount("proc", "/proc", "proc", 0, 0);
    mount("sys", "/sys", "sysfs", 0, 0);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    mount("tmp", "/tmp", "tmpfs", 0, "size=90%");
    int c = open("/dev/console", O_RDWR);
    if (c >= 0) {
        dup2(c, 0);
        dup2(c, 1);
        dup2(c, 2);
        if (c > 2)
            close(c);
    }
    setvbuf(stdout, 0, _IOLBF, 0);
    cat("/proc/cmdline", cl, sizeof cl);
    char up[64], cs[64];
    cat("/proc/uptime", up, 64);
    cat("/sys/devices/system/clocksource/clocksource0/current_clocksource", cs, 64);
    up[strcspn(up, " ")] = 0;
    cs[strcspn(cs, "\n")] = 0;
    printf("\n@@INIT uptime=%s clocksource=%s cpus=%ld\n", up, cs, sysconf(_SC_NPROCESSORS_ONLN));
    setenv("PATH", "/bin:/usr/bin", 1);
    for (char *e = opt("bench_env", ""), *q = strtok(e, ","); q; q = strtok(0, ",")) {
        char *v = strchr(q, ':');
        if (v) {
            *v = 0;
            setenv(q, v + 1, 1);
        }
    }
    for (char *q = strtok(opt("bench_mods", ""), ","); q; q = strtok(0, ","))
        ins(q);
    if (*opt("bench_net", ""))
        net();
    char *list = opt("bench", "none"), *sc = opt("bench_scale", "100");
    int reps = atoi(opt("bench_reps", "1"));
    if (strcmp(list, "none"))
        for (int r = 0; r < reps; r++) {
            char b[1024];
            snprintf(b, sizeof b, "%s", list);
            for (char *sv, *w = strtok_r(b, ",", &sv); w; w = strtok_r(0, ",", &sv)) {
                char nm[64];
                snprintf(nm, 64, "%s", w);
                char *sk = sc, *co = strchr(nm, ':');
                if (co) {
                    *co = 0;
                    sk = co + 1;
                }
                char *times = strchr(nm, '*');
                int copies = 1;
                if (times) {
                    *times = 0;
                    copies = atoi(times + 1);
                }
                char *d = strchr(nm, '.');
                const char *bin = "/bin/bench";
                if (d && !strcmp(d, ".v3")) {
                    *d = 0;
                    bin = "/bin/bench.v3";
                }
                printf("@@B %s\n", w);
                double t = now();
                for (int i = 0; i < copies; i++)
                    if (!fork()) {
                        cpu_set_t one;
                        CPU_ZERO(&one);
                        CPU_SET(i, &one);
                        if (times && sched_setaffinity(0, sizeof one, &one))
                            _exit(125);
                        execl(bin, "bench", nm, sk, (char *)0);
                        _exit(126);
                    }
                int st = 0;
                for (int i = 0, one; i < copies; i++) {
                    wait(&one);
                    st |= one;
                }
                printf("@@E %s rc=%d wall=%.6f\n", w, st, now() - t);
            }
        }
    int h = atoi(opt("bench_hold", "0"));
    if (h) {
        printf("@@HOLD %d\n", h);
        sleep(h);
    }
    printf("@@END uptime=%.2f\n", now());
    sync();
    syscall(SYS_ioctl, 1, 0x5409, 1);
    char *e = opt("bench_end", "poweroff");
    if (!strcmp(e, "halt"))
        for (;;)
            pause();
    if (strcmp(e, "reboot"))
        reboot(RB_POWER_OFF);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}
