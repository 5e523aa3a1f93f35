/* Processors that halt and wake each other, and their clocks. */
#include "machine.h"

static ALONE volatile uint32_t wakes[CPUS_MAX];
static uint32_t turns;

static uint32_t number_of_this(void)
{
    return *(volatile uint32_t *)0xFEE00020 >> 24;
}

static void count_wake(void) { wakes[number_of_this()]++; }

/* An interrupt goes round; everybody else sleeps. */
static void pass_on(unsigned id)
{
    for (uint32_t turn = 1; turn <= turns; turn++) {
        if (id == 0)
            send_ipi(1 % cpus, VECTOR_WAKE);
        for (;;) {
            __asm__ volatile("cli" ::: "memory");
            if (wakes[id] == turn)
                break;
            __asm__ volatile("sti; hlt" ::: "memory");
        }
        __asm__ volatile("sti" ::: "memory");
        if (id != 0)
            send_ipi((id + 1) % cpus, VECTOR_WAKE);
    }
}

/* Everybody interrupts everybody: one interrupt of a vector is on its way to each at a time, and none may be lost. */
static ALONE volatile uint32_t answered[CPUS_MAX][32];

static void storm(unsigned id)
{
    for (uint32_t turn = 0; turn < turns; turn++) {
        unsigned to = (id + 1 + turn % (cpus - 1)) % cpus;
        uint32_t before = wakes[to];
        send_ipi(to, VECTOR_WAKE);
        /* That processor takes it, or took another one that it merged with, behind the sending. */
        while (wakes[to] == before)
            pause();
    }
    answered[id][0] = 1;
    for (unsigned other = 0; other < cpus; other++)
        while (!answered[other][0])
            pause();
}

void wake_tests(void)
{
    if (cpus < 2)
        return;
    interrupt_handlers[0] = count_wake;
    turns = rounds * 20;
    on_all(pass_on);
    turns = rounds * 2;
    on_all(storm);
    print("wakes passed");
}

/* A time that another processor has read and passed on is never later than the time here. */
static ALONE volatile uint64_t latest;

static void read_clock(unsigned id)
{
    (void)id;
    uint64_t last = 0;
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint64_t theirs = latest, mine = rdtsc();
        CHECK(mine >= theirs && mine > last, "the TSC went back: %lu, then %lu here", theirs > last ? theirs : last, mine);
        last = mine;
        while (theirs < mine && !__atomic_compare_exchange_n(&latest, &theirs, mine, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
    }
}

void clock_tests(void)
{
    turns = rounds * 200;
    on_all(read_clock);
    print("clocks passed");
}
