/* Code that one processor writes and others run: Intel SDM volume 3A, section 9.1.3. */
#include "machine.h"

/* Functions and data lie here as the tests want them. */
static __attribute__((aligned(4096))) uint8_t page[3 * 4096];
static volatile uint32_t *version;
static uint8_t *function;
static ALONE volatile uint32_t acknowledged[CPUS_MAX];
static uint32_t turns;

/* mov eax, value; ret */
static void write_function(uint8_t *at, uint32_t value)
{
    at[0] = 0xB8;
    __builtin_memcpy(at + 1, &value, 4);
    at[5] = 0xC3;
}

static uint32_t call(uint8_t *at)
{
    uint32_t value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "memory", "cc");
    return value;
}

/* The writer writes the function, then its version; the others wait for the version, serialize, and call. */
static void cross_modify(unsigned id)
{
    for (uint32_t turn = 1; turn <= turns; turn++) {
        if (id == 0) {
            write_function(function, turn);
            *version = turn;
            for (unsigned other = 1; other < cpus; other++)
                while (acknowledged[other] != turn)
                    pause();
            CHECK(call(function) == turn, "own code, version %u, is old", turn);
        } else {
            while (*version != turn)
                pause();
            serialize();
            /* Several times: interpreted at first, translated then. */
            for (unsigned times = 0; times < 1 + turn % 8; times++) {
                uint32_t found = call(function);
                CHECK(found == turn, "code of version %u at %lx is of version %u", turn, (uint64_t)function, found);
            }
            __atomic_store_n(&acknowledged[id], turn, __ATOMIC_SEQ_CST);
        }
    }
}

static void test_cross_modifying(void)
{
    /* Function and version: apart; in one page; in one granule; the function across a line, across a page. */
    static const unsigned layouts[][2] = {{0, 8192}, {256, 1024}, {512, 520}, {61, 1024}, {4094, 8192}};
    for (unsigned at = 0; at < sizeof layouts / sizeof *layouts; at++) {
        function = page + layouts[at][0];
        version = (uint32_t *)(page + layouts[at][1]);
        *version = 0;
        for (unsigned id = 0; id < cpus; id++)
            acknowledged[id] = 0;
        turns = rounds * 4;
        on_all(cross_modify);
    }
}

/* All processors store to counters of their own beside code that all of them write and run in turn. */
static struct barrier barrier;

static void store_beside(unsigned id)
{
    volatile uint32_t *mine = (uint32_t *)(page + 2048 + id * 4);
    uint8_t *theirs = page + 2048 + 64 * (1 + id);
    uint8_t *next = page + 2048 + 64 * (1 + (id + 1) % cpus);
    *mine = 0;
    for (uint32_t turn = 1; turn <= turns; turn++) {
        for (unsigned times = 0; times < 5; times++)
            *mine += 1;
        write_function(theirs, turn * 16 + id);
        CHECK(call(theirs) == turn * 16 + id, "own code is old");
        wait_at(&barrier, cpus);
        serialize();
        uint32_t found = call(next);
        CHECK(found == turn * 16 + (id + 1) % cpus, "the neighbour's code is old: %x in turn %u", found, turn);
        wait_at(&barrier, cpus);
    }
    CHECK(*mine == turns * 5, "stores beside code: %u of %u", *mine, turns * 5);
}

/* One processor exchanges eight aligned bytes of code that the others run without ever waiting: the old or the new. */
static ALONE volatile uint32_t stop;

static void race(unsigned id)
{
    static const uint64_t codes[2] = {0x9090C311111111B8, 0x9090C322222222B8};
    volatile uint64_t *code = (uint64_t *)(page + 1024);
    if (id == 0) {
        for (uint32_t turn = 0; turn < turns; turn++) {
            *code = codes[turn & 1];
            for (unsigned times = 0; times < 50; times++)
                pause();
        }
        stop = 1;
        return;
    }
    while (!stop) {
        uint32_t found = call((uint8_t *)code);
        CHECK(found == 0x11111111 || found == 0x22222222, "neither old nor new code: %x", found);
    }
    serialize();
    uint32_t found = call((uint8_t *)code), last = codes[(turns - 1) & 1] >> 8;
    CHECK(found == last, "old code for ever: %x", found);
}

/* As Linux patches: the code, then an interrupt to all others, which serialize in it; no other word is passed. */
static ALONE volatile uint32_t synchronized;

static void acknowledge_sync(void) { __atomic_add_fetch(&synchronized, 1, __ATOMIC_SEQ_CST); }

static void patch_by_interrupt(unsigned id)
{
    function = page + 3072;
    if (id == 0) {
        for (uint32_t turn = 1; turn <= turns; turn++) {
            synchronized = 0;
            write_function(function, turn);
            for (unsigned other = 1; other < cpus; other++)
                send_ipi(other, VECTOR_SYNC);
            while (synchronized != cpus - 1)
                pause();
            *version = turn;
        }
        stop = 1;
        return;
    }
    while (!stop) {
        uint32_t least = *version, found = call(function);
        CHECK(found >= least, "code of version %u behind the interrupt of %u", found, least);
    }
}

void code_tests(void)
{
    interrupt_handlers[VECTOR_SYNC - VECTOR_WAKE] = acknowledge_sync;
    test_cross_modifying();
    turns = rounds * 4;
    on_all(store_beside);
    stop = 0;
    write_function(page + 1024, 0x11111111);
    on_all(race);
    stop = 0;
    version = (uint32_t *)(page + 8192);
    *version = 0;
    write_function(page + 3072, 0);
    on_all(patch_by_interrupt);
    print("code passed");
}
