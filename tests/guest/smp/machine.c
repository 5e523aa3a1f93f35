#include "machine.h"
#include <stdarg.h>

#define LAPIC 0xFEE00000u
enum { LAPIC_ID = 0x20, LAPIC_EOI = 0xB0, LAPIC_SVR = 0xF0, LAPIC_ICR = 0x300, LAPIC_ICR_HIGH = 0x310 };
enum { COM1 = 0x3F8, DEBUG_EXIT = 0xF4, PIC_MASK = 0x21, TRAMPOLINE_PAGE = 8 };
/* isa-debug-exit makes of these the statuses 3 and 5. */
enum { EXIT_DONE = 1, EXIT_FAILED = 2 };

unsigned cpus = 1;
uint32_t rounds = 1;
extern volatile uint32_t started, multiboot_info;
void (*volatile interrupt_handlers[3])(void);
void (*volatile page_fault_handler)(uintptr_t address);

static ALONE volatile uint32_t job_number;
static ALONE volatile uint32_t jobs_done;
static void (*volatile current_job)(unsigned id);

static void out8(uint16_t port, uint8_t value) { __asm__ volatile("out %0, %1" ::"a"(value), "Nd"(port)); }

static volatile uint32_t *lapic(unsigned offset) { return (volatile uint32_t *)(uintptr_t)(LAPIC + offset); }

/* Output and failing. */

static void put_number(uint64_t value, unsigned base)
{
    char digits[24];
    int at = 0;
    do
        digits[at++] = "0123456789abcdef"[value % base];
    while (value /= base);
    while (at)
        out8(COM1, digits[--at]);
}

/* Knows %s, %u, %lu, %lx and %x. */
static void put_formatted(const char *format, va_list values)
{
    for (; *format; format++) {
        if (*format != '%') {
            out8(COM1, *format);
            continue;
        }
        bool is_long = *++format == 'l';
        format += is_long;
        if (*format == 's') {
            for (const char *text = va_arg(values, const char *); *text; text++)
                out8(COM1, *text);
        } else {
            uint64_t value = is_long ? va_arg(values, uint64_t) : va_arg(values, unsigned);
            put_number(value, *format == 'x' ? 16 : 10);
        }
    }
    out8(COM1, '\n');
}

void print(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    put_formatted(format, values);
    va_end(values);
}

void fail(const char *format, ...)
{
    static volatile uint32_t failed;
    va_list values;
    va_start(values, format);
    if (!__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST)) {
        put_formatted(format, values);
        out8(DEBUG_EXIT, EXIT_FAILED);
    }
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* Interrupts. */

struct frame {
    uint64_t rip, cs, rflags, rsp, ss;
};

#define INTERRUPT(index) \
    __attribute__((interrupt)) static void interrupt_##index(struct frame *frame) \
    { \
        (void)frame; \
        interrupt_handlers[index](); \
        end_of_interrupt(); \
    }
INTERRUPT(0)
INTERRUPT(1)
INTERRUPT(2)

__attribute__((interrupt)) static void page_fault(struct frame *frame, uint64_t error)
{
    uintptr_t address;
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    CHECK(page_fault_handler, "page fault at %lx, address %lx, error %lx", frame->rip, address, error);
    page_fault_handler(address);
}

__attribute__((interrupt)) static void exception(struct frame *frame)
{
    fail("exception at %lx, stack %lx", frame->rip, frame->rsp);
}

static struct {
    uint16_t low, selector, type, middle;
    uint32_t high, zero;
} idt[256];

static void set_gate(unsigned vector, const void *handler)
{
    uintptr_t address = (uintptr_t)handler;
    idt[vector].low = address;
    idt[vector].selector = 0x10;
    idt[vector].type = 0x8E00;
    idt[vector].middle = address >> 16;
    idt[vector].high = address >> 32;
}

void send_ipi(unsigned id, unsigned vector)
{
    *lapic(LAPIC_ICR_HIGH) = id << 24;
    *lapic(LAPIC_ICR) = 0x4000 | vector;
}

void end_of_interrupt(void) { *lapic(LAPIC_EOI) = 0; }

/* Processors. */

void wait_at(struct barrier *barrier, unsigned count)
{
    uint32_t generation = barrier->generation;
    if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_SEQ_CST) == count) {
        barrier->arrived = 0;
        __atomic_store_n(&barrier->generation, generation + 1, __ATOMIC_SEQ_CST);
        return;
    }
    while (barrier->generation == generation)
        pause();
}

void on_all(void (*job)(unsigned id))
{
    current_job = job;
    jobs_done = 0;
    __atomic_add_fetch(&job_number, 1, __ATOMIC_SEQ_CST);
    job(0);
    while (jobs_done != cpus - 1)
        pause();
}

static _Noreturn void serve(unsigned id)
{
    for (uint32_t seen = 0;; seen++) {
        while (job_number == seen)
            pause();
        current_job(id);
        __atomic_add_fetch(&jobs_done, 1, __ATOMIC_SEQ_CST);
    }
}

static uint32_t argument(const char *name, uint32_t otherwise)
{
    const uint32_t *info = (const uint32_t *)(uintptr_t)multiboot_info;
    if (!(info[0] & 4))
        return otherwise;
    for (const char *at = (const char *)(uintptr_t)info[4]; *at; at++) {
        size_t length = 0;
        while (name[length] && at[length] == name[length])
            length++;
        if (!name[length] && at[length] == '=') {
            uint32_t value = 0;
            for (at += length + 1; *at >= '0' && *at <= '9'; at++)
                value = value * 10 + (*at - '0');
            return value;
        }
    }
    return otherwise;
}

static void start_others(void)
{
    cpus = argument("cpus", 1);
    rounds = argument("rounds", 1);
    CHECK(cpus >= 1 && cpus <= CPUS_MAX, "cpus=%u makes no sense", cpus);
    for (unsigned vector = 0; vector < 32; vector++)
        set_gate(vector, exception);
    set_gate(14, page_fault);
    set_gate(VECTOR_WAKE, interrupt_0);
    set_gate(VECTOR_SHOOTDOWN, interrupt_1);
    set_gate(VECTOR_SYNC, interrupt_2);
    for (unsigned id = 1; id < cpus; id++) {
        *lapic(LAPIC_ICR_HIGH) = id << 24;
        *lapic(LAPIC_ICR) = 0x4500;
        *lapic(LAPIC_ICR_HIGH) = id << 24;
        *lapic(LAPIC_ICR) = 0x4600 | TRAMPOLINE_PAGE;
        /* One at a time: processor numbers are APIC IDs. */
        while (started != id + 1)
            pause();
    }
}

/* Called by boot.S on each processor. */
_Noreturn void cpu_main(unsigned id)
{
    struct {
        uint16_t limit;
        void *base;
    } __attribute__((packed)) pointer = {sizeof idt - 1, idt};
    __asm__ volatile("lidt %0" ::"m"(pointer));
    *lapic(LAPIC_SVR) = 0x1FF;
    /* The timer that a BIOS leaves running. */
    out8(PIC_MASK, 0xFF);
    __asm__ volatile("sti");
    if (id != 0)
        serve(id);
    start_others();
    static void (*const tests[])(void) = {litmus_tests, lock_tests, code_tests, paging_tests, wake_tests, clock_tests};
    uint32_t wanted = argument("tests", ~0u);
    for (unsigned number = 0; number < sizeof tests / sizeof *tests; number++)
        if (wanted >> number & 1)
            tests[number]();
    print("done: %u processors, %u rounds", cpus, rounds);
    out8(DEBUG_EXIT, EXIT_DONE);
    for (;;)
        __asm__ volatile("cli; hlt");
}
