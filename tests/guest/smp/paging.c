/* A page table that one processor changes while others use it. Intel SDM volume 3A, section 4.10.5. */
#include "machine.h"

enum { PRESENT = 1, WRITABLE = 2, ACCESSED = 0x20, DIRTY = 0x40 };
static const uintptr_t LINEAR = 0x80000000;

extern uint64_t test_directory[512];
static __attribute__((aligned(4096))) uint64_t table[512];
static __attribute__((aligned(4096))) volatile uint64_t frames[2][512];
static ALONE volatile uint32_t acknowledged, stop;
static ALONE volatile uint32_t faults;
static uint32_t turns;

static void invlpg(uintptr_t address) { __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory"); }

static void shoot_down(void)
{
    invlpg(LINEAR);
    __atomic_add_fetch(&acknowledged, 1, __ATOMIC_SEQ_CST);
}

static void tell_others(void)
{
    acknowledged = 0;
    for (unsigned other = 1; other < cpus; other++)
        send_ipi(other, VECTOR_SHOOTDOWN);
    while (acknowledged != cpus - 1)
        pause();
}

/* The page goes to and fro between two frames. Behind the shootdown, nothing is stored to the old one. */
static void exchange_frames(unsigned id)
{
    if (id != 0) {
        for (uint64_t number = 1; !stop; number++) {
            volatile uint64_t *mine = (uint64_t *)LINEAR + id * 8;
            *mine = number;
            mine[1] = number;
        }
        return;
    }
    for (uint32_t turn = 0; turn < turns; turn++) {
        volatile uint64_t *old = frames[turn & 1];
        __atomic_store_n(&table[0], (uintptr_t)frames[~turn & 1] | PRESENT | WRITABLE, __ATOMIC_SEQ_CST);
        invlpg(LINEAR);
        tell_others();
        for (unsigned word = 0; word < 8 * CPUS_MAX; word++)
            old[word] = ~0ull;
        for (unsigned wait = 0; wait < 20; wait++)
            pause();
        for (unsigned word = 0; word < 8 * CPUS_MAX; word++)
            CHECK(old[word] == ~0ull, "a store to the old frame behind the shootdown, word %u", word);
    }
    stop = 1;
}

/* The entry is taken out by an exchange. No bits appear in the empty entry, and what was stored through the page before is
 * told by the dirty bit. Page faults of the others wait for the entry's return. */
static void wait_for_the_page(uintptr_t address)
{
    CHECK(address >> 12 == LINEAR >> 12, "page fault at address %lx", address);
    faults++;
    while (!(__atomic_load_n(&table[0], __ATOMIC_SEQ_CST) & PRESENT) && !stop)
        __asm__ volatile("sti; pause" ::: "memory");
}

static void take_entries(unsigned id)
{
    if (id != 0) {
        for (uint64_t number = 1; !stop; number++)
            ((volatile uint64_t *)LINEAR)[id * 8] = number;
        return;
    }
    /* Nobody knows the page from before. */
    tell_others();
    for (unsigned word = 0; word < 512; word++)
        frames[0][word] = 0;
    table[0] = (uintptr_t)frames[0] | PRESENT | WRITABLE;
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint64_t entry = __atomic_exchange_n(&table[0], 0, __ATOMIC_SEQ_CST);
        for (unsigned wait = 0; wait < turn % 64; wait++)
            pause();
        uint64_t empty = __atomic_load_n(&table[0], __ATOMIC_SEQ_CST);
        CHECK(empty == 0, "bits in an entry that was cleared: %lx", empty);
        invlpg(LINEAR);
        tell_others();
        for (unsigned word = 0; word < 8 * CPUS_MAX; word++) {
            CHECK(frames[0][word] == 0 || entry & DIRTY, "stored without a dirty bit: %lx", entry);
            frames[0][word] = 0;
        }
        empty = __atomic_exchange_n(&table[0], (uintptr_t)frames[0] | PRESENT | WRITABLE, __ATOMIC_SEQ_CST);
        CHECK(empty == 0, "bits in an entry that was cleared: %lx", empty);
        for (unsigned wait = 0; wait < 50; wait++)
            pause();
    }
    stop = 1;
}

void paging_tests(void)
{
    interrupt_handlers[VECTOR_SHOOTDOWN - VECTOR_WAKE] = shoot_down;
    test_directory[0] = (uintptr_t)table | PRESENT | WRITABLE;
    table[0] = (uintptr_t)frames[0] | PRESENT | WRITABLE;
    turns = rounds * 10;
    on_all(exchange_frames);
    table[0] = 0;
    stop = 0;
    page_fault_handler = wait_for_the_page;
    on_all(take_entries);
    page_fault_handler = NULL;
    print("paging passed, %u page faults", faults);
}
