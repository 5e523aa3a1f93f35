/* Litmus tests: what Intel SDM volume 3A, section 9.2 (x86-TSO) allows processors to see of each other's stores. Each test
 * runs on many instances of its two variables, with plain, string and locked accesses; the variables are aligned, or lie
 * across a cache line or a page, where what holds for each byte must hold for all. */
#include "machine.h"

enum { INSTANCES = 64, STRIDE = 8192 };
#define NEW 0x0101010101010101u

/* A store, and what stands between it and the next load. */
enum flavour { PLAIN, STRING, MFENCE, LOCKED, EXCHANGE, FLAVOURS };
static const char *const flavour_names[] = {"plain", "string", "mfence", "lock", "xchg"};
static const unsigned offsets[] = {0, 60, 4092};
static const char *const offset_names[] = {"aligned", "across lines", "across pages"};

static __attribute__((aligned(4096))) uint8_t x_memory[INSTANCES * STRIDE], y_memory[INSTANCES * STRIDE];
static ALONE volatile uint32_t meeting[INSTANCES];
static uint64_t seen[4][INSTANCES];

static enum flavour flavour;
static unsigned offset;
static unsigned threads;
/* Other processors take the parts in turn. */
static uint32_t turn;

static uint64_t *x_at(unsigned i) { return (uint64_t *)(x_memory + i * STRIDE + offset); }
static uint64_t *y_at(unsigned i) { return (uint64_t *)(y_memory + i * STRIDE + offset); }

static inline void store(uint64_t *at)
{
    uint64_t value = NEW;
    switch (flavour) {
    case PLAIN:
        __asm__ volatile("movq %1, %0" : "=m"(*at) : "r"(value) : "memory");
        break;
    case STRING:
        __asm__ volatile("stosq" : "+D"(at) : "a"(value) : "memory");
        break;
    case MFENCE:
        __asm__ volatile("movq %1, %0; mfence" : "=m"(*at) : "r"(value) : "memory");
        break;
    case LOCKED:
        __asm__ volatile("lock orq %1, %0" : "+m"(*at) : "r"(value) : "memory", "cc");
        break;
    default:
        __asm__ volatile("xchgq %1, %0" : "+m"(*at), "+r"(value)::"memory");
    }
}

static inline uint64_t load(uint64_t *at)
{
    uint64_t value;
    if (flavour == STRING)
        __asm__ volatile("lodsq" : "=a"(value), "+S"(at)::"memory");
    else
        __asm__ volatile("movq %1, %0" : "=r"(value) : "m"(*at) : "memory");
    return value;
}

/* Brings the threads of an instance as close together as they come, but waits for nobody for long. */
static inline void meet(unsigned i)
{
    __atomic_add_fetch(&meeting[i], 1, __ATOMIC_SEQ_CST);
    for (unsigned spin = 0; spin < 3000 && meeting[i] < threads; spin++)
        pause();
}

static void store_buffering(unsigned id, unsigned i)
{
    store(id == 0 ? x_at(i) : y_at(i));
    seen[id][i] = load(id == 0 ? y_at(i) : x_at(i));
}

static bool store_buffering_forbids(unsigned i) { return seen[0][i] != NEW && seen[1][i] != NEW; }

static void message_passing(unsigned id, unsigned i)
{
    if (id == 0) {
        store(x_at(i));
        store(y_at(i));
    } else {
        seen[0][i] = load(y_at(i));
        seen[1][i] = load(x_at(i));
    }
}

static bool message_passing_forbids(unsigned i) { return seen[0][i] != 0 && seen[1][i] != NEW; }

static void load_buffering(unsigned id, unsigned i)
{
    seen[id][i] = load(id == 0 ? x_at(i) : y_at(i));
    store(id == 0 ? y_at(i) : x_at(i));
}

static bool load_buffering_forbids(unsigned i) { return seen[0][i] != 0 && seen[1][i] != 0; }

static void independent_reads(unsigned id, unsigned i)
{
    switch (id) {
    case 0:
        store(x_at(i));
        break;
    case 1:
        store(y_at(i));
        break;
    case 2:
        seen[0][i] = load(x_at(i));
        seen[1][i] = load(y_at(i));
        break;
    default:
        seen[2][i] = load(y_at(i));
        seen[3][i] = load(x_at(i));
    }
}

static bool independent_reads_forbids(unsigned i)
{
    return seen[0][i] == NEW && seen[1][i] != NEW && seen[2][i] == NEW && seen[3][i] != NEW;
}

static const struct test {
    const char *name;
    unsigned threads;
    void (*run)(unsigned id, unsigned i);
    bool (*forbids)(unsigned i);
    /* Allowed where no fence follows the store. */
    bool needs_fence;
} tests[] = {
    {"SB", 2, store_buffering, store_buffering_forbids, true},
    {"MP", 2, message_passing, message_passing_forbids, false},
    {"LB", 2, load_buffering, load_buffering_forbids, false},
    {"IRIW", 4, independent_reads, independent_reads_forbids, false},
};
static const struct test *test;

static void run_instances(unsigned id)
{
    unsigned part = (id + turn) % cpus;
    if (part < threads)
        for (unsigned i = 0; i < INSTANCES; i++) {
            meet(i);
            test->run(part, i);
        }
}

static void run_test(void)
{
    uint32_t relaxed = 0;
    bool allowed = test->needs_fence && flavour < MFENCE;
    threads = test->threads;
    /* A line-crossing LOCK stops all others each time. */
    bool costly = offset != 0 && flavour >= LOCKED;
    for (uint32_t round = 0; round < (costly ? (rounds + 7) / 8 : rounds); round++) {
        for (unsigned i = 0; i < INSTANCES; i++) {
            meeting[i] = 0;
            *x_at(i) = *y_at(i) = 0;
        }
        turn++;
        on_all(run_instances);
        for (unsigned i = 0; i < INSTANCES; i++) {
            bool found = test->forbids(i);
            relaxed += found;
            CHECK(!found || allowed, "%s, %s, %s: forbidden: %lx %lx %lx %lx", test->name, flavour_names[flavour],
                  offset_names[offset != 0 ? 1 + (offset > 64) : 0], seen[0][i], seen[1][i], seen[2][i], seen[3][i]);
        }
    }
    if (allowed)
        print("%s, %s: %u stores overtaken by loads", test->name, flavour_names[flavour], relaxed);
}

void litmus_tests(void)
{
    for (unsigned number = 0; number < sizeof tests / sizeof *tests; number++)
        for (flavour = 0; flavour < FLAVOURS; flavour++)
            for (unsigned at = 0; at < sizeof offsets / sizeof *offsets; at++) {
                test = &tests[number];
                offset = offsets[at];
                if (test->threads <= cpus)
                    run_test();
            }
    print("litmus tests passed");
}
