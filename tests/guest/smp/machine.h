/* What the tests stand on: processors that do one thing together, interrupts, output. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CPUS_MAX 8
/* Each in a pair of cache lines of its own. */
#define ALONE __attribute__((aligned(128)))

enum { VECTOR_WAKE = 0x40, VECTOR_SHOOTDOWN, VECTOR_SYNC };

extern unsigned cpus;
extern uint32_t rounds;

/* Calls job(number) on all processors at once and returns when all are done. */
void on_all(void (*job)(unsigned id));
/* Returns when `count` processors have called it with the same `barrier`; all of them reuse it at once. */
struct barrier {
    volatile uint32_t arrived, generation;
};
void wait_at(struct barrier *barrier, unsigned count);

void send_ipi(unsigned id, unsigned vector);
void end_of_interrupt(void);
/* What an interrupt or page fault calls; a page fault's handler gets its address. */
extern void (*volatile interrupt_handlers[3])(void);
extern void (*volatile page_fault_handler)(uintptr_t address);

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says what is wrong and ends the machine. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define CHECK(condition, ...) \
    do { \
        if (!(condition)) \
            fail(__VA_ARGS__); \
    } while (0)

static inline void pause(void) { __asm__ volatile("pause" ::: "memory"); }
static inline void mfence(void) { __asm__ volatile("mfence" ::: "memory"); }
static inline void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}
/* A number that differs from the last one. `state` is not zero. */
static inline uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

void litmus_tests(void);
void lock_tests(void);
void code_tests(void);
void paging_tests(void);
void wake_tests(void);
void clock_tests(void);
