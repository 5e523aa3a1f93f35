/* The first process of the storage benchmark. Loads the modules in /modules in the order of their names, then measures
   /dev/vda or /dev/sda, whichever comes, with O_DIRECT, and the serial console. A line each: @@D NAME RATE, in accesses or
   MiB a second; @@S RATE, in KiB a second; @@END. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SIZE (256u << 20)
#define SECONDS 2.0

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void end(const char *why)
{
    printf("%s\n", why);
    fflush(stdout);
    tcdrain(1);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}

static int is_module(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, is_module, alphasort);
    for (int i = 0; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int file = open(path, O_RDONLY);
        if (syscall(SYS_finit_module, file, "", 0) != 0)
            printf("module %s was not loaded\n", names[i]->d_name);
        close(file);
    }
}

/* Moves pieces of `size` bytes for a time, at random places or one behind the other, and tells how many a second. */
static double rate(int disk, char *buffer, size_t size, int write, int random)
{
    uint64_t state = 88172645463325252u, done = 0, pieces = SIZE / size;
    double begin = now(), time;
    do {
        for (int i = 0; i < 16; i++, done++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            off_t at = (random ? state % pieces : done % pieces) * size;
            ssize_t moved = write ? pwrite(disk, buffer, size, at) : pread(disk, buffer, size, at);
            if (moved != (ssize_t)size)
                end("@@FAILED");
        }
        time = now() - begin;
    } while (time < SECONDS);
    return done / time;
}

int main(void)
{
    mount("none", "/dev", "devtmpfs", 0, "");
    setvbuf(stdout, 0, _IOLBF, 0);
    load_modules();
    int disk = -1;
    for (int i = 0; i < 400 && disk < 0; i++) {
        disk = open("/dev/vda", O_RDWR | O_DIRECT);
        if (disk < 0)
            disk = open("/dev/sda", O_RDWR | O_DIRECT);
        usleep(25000);
    }
    char *buffer = aligned_alloc(4096, 1 << 20);
    if (disk < 0 || !buffer)
        end("@@FAILED");
    memset(buffer, 0x5A, 1 << 20);
    rate(disk, buffer, 1 << 20, 1, 0); /* the host's cache has all of it from here on */
    printf("@@D random-read %.0f\n", rate(disk, buffer, 4096, 0, 1));
    printf("@@D random-write %.0f\n", rate(disk, buffer, 4096, 1, 1));
    printf("@@D sequential-read %.0f\n", rate(disk, buffer, 1 << 20, 0, 0));
    printf("@@D sequential-write %.0f\n", rate(disk, buffer, 1 << 20, 1, 0));
    static char line[80];
    memset(line, 'x', 79);
    line[79] = '\n';
    double begin = now();
    for (int i = 0; i < 80 * 10; i++)
        if (write(1, line, 80) != 80)
            end("@@FAILED");
    tcdrain(1);
    printf("@@S %.1f\n", 800 * 80 / 1024.0 / (now() - begin));
    end("@@END");
}
