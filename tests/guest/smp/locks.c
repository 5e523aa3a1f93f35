/* Locked instructions of all kinds at aligned, unaligned and line- and page-crossing places, against each other. */
#include "machine.h"

static __attribute__((aligned(4096))) uint8_t memory[3 * 4096];
static uint32_t turns;
static unsigned place;
/* Aligned; unaligned within a line; across lines; across pages. */
static const unsigned places[] = {128, 129, 64 - 4, 64 - 1, 4096 - 4, 4096 - 7};

static bool crosses(unsigned at) { return at % 64 > 56; }

static void count(unsigned id)
{
    uint64_t *counter = (uint64_t *)(memory + place);
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint64_t one = 1, old, new;
        switch ((turn + id) % 5) {
        case 0:
            __asm__ volatile("lock incq %0" : "+m"(*counter)::"memory", "cc");
            break;
        case 1:
            __asm__ volatile("lock xaddq %1, %0" : "+m"(*counter), "+r"(one)::"memory", "cc");
            break;
        case 2:
            __asm__ volatile("lock subq $-1, %0" : "+m"(*counter)::"memory", "cc");
            break;
        case 3:
            __asm__ volatile("lock addw $1, %0; jnc 1f; lock addw $1, 2%0; jnc 1f; lock addl $1, 4%0; 1:"
                             : "+m"(*(volatile uint64_t *)counter)::"memory", "cc");
            break;
        default:
            do {
                old = *(volatile uint64_t *)counter;
                new = old + 1;
                __asm__ volatile("lock cmpxchgq %2, %0" : "+m"(*counter), "+a"(old) : "r"(new) : "memory", "cc");
            } while (old + 1 != new);
        }
    }
}

static void test_counters(void)
{
    for (unsigned at = 0; at < sizeof places / sizeof *places; at++) {
        place = places[at];
        turns = crosses(place) ? rounds * 8 : rounds * 200;
        *(uint64_t *)(memory + place) = 0;
        on_all(count);
        uint64_t sum = *(uint64_t *)(memory + place);
        CHECK(sum == (uint64_t)turns * cpus, "counter at %u: %lu of %lu", place, sum, (uint64_t)turns * cpus);
    }
}

/* The first processor adds 1 to eight bytes across a line by LOCK. The upper four of them, aligned on the far side of the
 * line, belong to the second, which counts there by aligned LOCKs; a third stores plainly what nobody else may change. */
static ALONE volatile uint32_t stop;
static ALONE uint32_t counted, stores_lost;

static void mix(unsigned id)
{
    uint64_t *wide = (uint64_t *)(memory + place);
    volatile uint32_t *upper = (volatile uint32_t *)(memory + place + 4);
    volatile uint8_t *third = memory + place + 3;
    if (id == 0) {
        for (uint32_t turn = 1; turn <= turns; turn++)
            __asm__ volatile("lock addq $1, %0" : "+m"(*wide)::"memory", "cc");
        stop = 1;
    } else if (id == 1) {
        for (; !stop; counted++)
            __asm__ volatile("lock incl %0" : "+m"(*upper)::"memory", "cc");
    } else if (id == 2) {
        for (uint8_t value = 0; !stop; value++) {
            *third = value;
            stores_lost += *third != value;
        }
    }
}

static void test_mixed(void)
{
    static const unsigned bases[] = {64 - 4, 4096 - 4};
    for (unsigned at = 0; at < 2; at++) {
        place = bases[at];
        /* The lowest three bytes are the first processor's counter: no carry reaches the fourth. */
        turns = rounds * 8 < 1 << 24 ? rounds * 8 : (1 << 24) - 1;
        *(uint64_t *)(memory + place) = 0;
        stop = counted = stores_lost = 0;
        on_all(mix);
        uint32_t low = *(uint32_t *)(memory + place) & 0xFFFFFF, high = *(uint32_t *)(memory + place + 4);
        CHECK(low == turns, "lock add across lines: %u of %u", low, turns);
        CHECK(high == counted, "aligned lock inc beside a lock across lines: %u of %u", high, counted);
        CHECK(stores_lost == 0, "%u plain stores lost to a lock across lines", stores_lost);
    }
}

/* Two counters that only the holder of a lock may touch. */
static volatile uint64_t guarded, guarded_too;

static void use_what_is_guarded(void)
{
    uint64_t value = guarded + 1;
    guarded = value;
    CHECK(guarded_too == value - 1, "two in one lock at %u: %lu, %lu", place, guarded_too, value - 1);
    guarded_too = value;
}

static void exchange_lock(unsigned id)
{
    (void)id;
    uint32_t *lock = (uint32_t *)(memory + place);
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint32_t taken;
        for (;;) {
            taken = 1;
            __asm__ volatile("xchgl %1, %0" : "+m"(*lock), "+r"(taken)::"memory");
            if (!taken)
                break;
            while (*(volatile uint32_t *)lock)
                pause();
        }
        use_what_is_guarded();
        *(volatile uint32_t *)lock = 0;
    }
}

static void compare_lock(unsigned id)
{
    (void)id;
    uint32_t *lock = (uint32_t *)(memory + place);
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint32_t found;
        do {
            found = 0;
            __asm__ volatile("lock cmpxchgl %2, %0" : "+m"(*lock), "+a"(found) : "r"(1) : "memory", "cc");
            if (found)
                pause();
        } while (found);
        use_what_is_guarded();
        *(volatile uint32_t *)lock = 0;
    }
}

static void bit_lock(unsigned id)
{
    (void)id;
    uint32_t *lock = (uint32_t *)(memory + place);
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint8_t taken;
        do {
            __asm__ volatile("lock btsl $7, %0; setc %1" : "+m"(*lock), "=q"(taken)::"memory", "cc");
            if (taken)
                pause();
        } while (taken);
        use_what_is_guarded();
        __asm__ volatile("lock andl $0xFFFFFF7F, %0" : "+m"(*lock)::"memory", "cc");
    }
}

static void ticket_lock(unsigned id)
{
    (void)id;
    uint16_t *tickets = (uint16_t *)(memory + place);
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint16_t mine = 1;
        __asm__ volatile("lock xaddw %1, %0" : "+m"(tickets[0]), "+r"(mine)::"memory", "cc");
        while (((volatile uint16_t *)tickets)[1] != mine)
            pause();
        use_what_is_guarded();
        ((volatile uint16_t *)tickets)[1] = mine + 1;
    }
}

static void test_spinlocks(void)
{
    static void (*const locks[])(unsigned id) = {exchange_lock, compare_lock, bit_lock, ticket_lock};
    for (unsigned kind = 0; kind < sizeof locks / sizeof *locks; kind++)
        for (unsigned at = 0; at < sizeof places / sizeof *places; at++) {
            /* Fair to nobody who is not running: fewer turns for tickets. */
            place = places[at] & (kind == 3 ? ~1u : ~0u);
            turns = crosses(place) || kind == 3 ? rounds : rounds * 20;
            *(uint32_t *)(memory + place) = 0;
            guarded = guarded_too = 0;
            on_all(locks[kind]);
            CHECK(guarded == (uint64_t)turns * cpus, "lock %u at %u: %lu of %lu", kind, place, guarded,
                  (uint64_t)turns * cpus);
        }
}

/* Sixteen bytes whose halves always add up to the same. */
static __attribute__((aligned(64))) uint64_t pair[2];

static void exchange_pair(unsigned id)
{
    (void)id;
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint64_t low = pair[0], high = pair[1];
        uint8_t done;
        do {
            __asm__ volatile("lock cmpxchg16b %0; setz %1"
                             : "+m"(*(volatile __int128 *)pair), "=q"(done), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high - 1)
                             : "memory", "cc");
            CHECK(done || low + high == 1000, "half of a cmpxchg16b: %lx, %lx", low, high);
        } while (!done);
    }
}

static void test_pair(void)
{
    pair[0] = 0;
    pair[1] = 1000;
    turns = rounds * 100;
    on_all(exchange_pair);
    CHECK(pair[0] == (uint64_t)turns * cpus && pair[0] + pair[1] == 1000, "cmpxchg16b: %lu", pair[0]);
}

void lock_tests(void)
{
    test_counters();
    test_mixed();
    test_spinlocks();
    test_pair();
    print("locks passed");
}
