/* A guest without an operating system that times what only systems do, in ticks of the time-stamp counter.
 * Starts in 32-bit protected mode by its PVH note, runs in 64-bit mode, and prints a line `event: ticks` for each
 * event on COM1; then it writes 0 to isa-debug-exit. A figure is the least of ROUNDS runs, less the empty loop. */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define ROUNDS 40
#define PAGES 64
#define WINDOW ((volatile u8 *)0x40000000)
#define APIC(offset) (*(volatile u32 *)(0xFEE00000UL + (offset)))
#define VECTOR 0x40

__asm__(".section .note.Xen, \"a\", @note\n"
        ".long 4, 4, 18\n" /* XEN_ELFNOTE_PHYS32_ENTRY */
        ".asciz \"Xen\"\n"
        ".long start\n"
        ".previous\n"
        /* Page tables: 1 GiB of large pages, 64 pages at 1 GiB, and the local APIC. User code may use all. */
        ".section .data\n"
        ".balign 4096\n"
        "pml4: .quad pdpt + 7\n"
        ".balign 4096\n"
        "pdpt: .quad low + 7, middle + 7, 0, high + 7\n"
        ".balign 4096\n"
        "low: .set page, 0\n"
        ".rept 512\n"
        ".quad page + 0xE7\n"
        ".set page, page + 0x200000\n"
        ".endr\n"
        "middle: .quad pages + 7\n"
        ".balign 4096\n"
        "high: .fill 503, 8, 0\n"
        ".quad 0xFEE000FB\n"
        ".balign 4096\n"
        "pages: .set page, 0x800000\n"
        ".rept 64\n"
        ".quad page + 0x67\n"
        ".set page, page + 0x1000\n"
        ".endr\n"
        ".balign 4096\n"
        /* Kernel code and data, nothing, user data and code. */
        "gdt: .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF\n"
        "gdtr: .word . - gdt - 1\n"
        ".quad gdt\n"
        ".comm stack, 16384, 16\n"
        ".previous\n"
        ".code32\n"
        ".globl start\n"
        "start: mov $stack + 16384, %esp\n"
        "lgdt gdtr\n"
        "mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4\n"
        "mov $pml4, %eax; mov %eax, %cr3\n"
        "mov $0xC0000080, %ecx; rdmsr; or $0x101, %eax; wrmsr\n"
        "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
        "ljmp $8, $long_mode\n"
        ".code64\n"
        "long_mode: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
        "call run\n"
        "1: hlt; jmp 1b\n"
        /* #UD: goes on behind the UD2. */
        "skip: addq $2, (%rsp); iretq\n"
        "interrupted: push %rax; mov $0xFEE000B0, %eax; movl $0, (%rax); incl interrupts; pop %rax; iretq\n"
        /* RAX = 0 goes back to the program, 1 to the kernel. */
        "called: test %eax, %eax; jnz 1f; sysretq\n"
        "1: mov kernel_stack, %rsp; pop %rbx; ret\n"
        /* RDI system calls from user code, with interrupts off. */
        "call_kernel: push %rbx; mov %rsp, kernel_stack; mov %rdi, %rbx\n"
        "push $0x23; push %rsp; push $2; push $0x2B; push $2f; iretq\n"
        "2: xor %eax, %eax; syscall; dec %rbx; jnz 2b\n"
        "mov $1, %eax; syscall\n"
        ".comm kernel_stack, 8, 8\n");

struct gate {
    u32 low, middle, high, reserved;
};
extern u8 skip[], interrupted[], called[];
void call_kernel(u64 times);
u32 interrupts;
static struct gate idt[VECTOR + 1];
static u8 code[64];

static inline void out(unsigned short port, u8 value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}
static inline u8 in(unsigned short port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
    return value;
}
static inline u64 ticks(void) {
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}
static void put(char c) {
    while (!(in(0x3FD) & 0x20))
        ;
    out(0x3F8, c);
}
static void print(const char *text) {
    while (*text)
        put(*text++);
}
static void number(u64 value) {
    if (value >= 10)
        number(value / 10);
    put('0' + value % 10);
}
static void report(const char *name, u64 value) {
    print(name);
    print(": ");
    number(value);
    put('\n');
}
static void set_gate(int vector, void *handler) {
    u64 address = (u64)handler;
    idt[vector] = (struct gate){8 << 16 | (address & 0xFFFF), (address & 0xFFFF0000) | 0x8E00, address >> 32, 0};
}
static void write_msr(u32 msr, u64 value) {
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
}
static inline void write_cr3(u64 value) {
    __asm__ volatile("mov %0, %%cr3" ::"r"(value) : "memory");
}

/* Sets `least` to the fewest ticks that `times` runs of a statement took. */
#define LEAST(least, times, ...)                                                                                       \
    u64 least = ~0UL;                                                                                                  \
    for (int round = 0; round < ROUNDS; round++) {                                                                     \
        u64 begin = ticks();                                                                                           \
        for (int i = 0; i < (times); i++) {                                                                            \
            __VA_ARGS__;                                                                                                   \
        }                                                                                                              \
        u64 took = ticks() - begin;                                                                                    \
        if (took < least)                                                                                              \
            least = took;                                                                                              \
    }
/* Measures `times` runs of a statement in a round. */
#define MEASURE(name, times, ...)                                                                                      \
    do {                                                                                                               \
        LEAST(empty, times, __asm__ volatile(""))                                                                      \
        LEAST(least, times, __VA_ARGS__)                                                                               \
        report(name, least > empty ? (least - empty) / (times) : 0);                                                   \
    } while (0)

static inline u64 touch(void) {
    u64 sum = 0;
    for (int page = 0; page < PAGES; page++)
        sum += WINDOW[page * 4096];
    return sum;
}

void run(void) {
    u64 cr3;
    volatile u64 sink = 0;
    struct {
        unsigned short limit;
        u64 base;
    } __attribute__((packed)) idtr = {sizeof idt - 1, (u64)idt};
    out(0x21, 0xFF); /* no interrupts of the PICs */
    out(0xA1, 0xFF);
    set_gate(6, skip);
    set_gate(VECTOR, interrupted);
    __asm__ volatile("lidt %0" ::"m"(idtr));
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    write_msr(0xC0000081, 0x18UL << 48 | 8UL << 32); /* IA32_STAR */
    write_msr(0xC0000082, (u64)called);              /* IA32_LSTAR */
    write_msr(0xC0000084, 0x700);                    /* IA32_FMASK */
    APIC(0xF0) = 0x1FF;                              /* spurious vector, enabled */

    MEASURE("port read", 200, in(0x3FF));
    MEASURE("CLI and STI", 200, __asm__ volatile("cli; sti; nop"));
    __asm__ volatile("cli");
    MEASURE("CPUID", 200, {
        u32 a = 0, b, c = 0, d;
        __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    });
    MEASURE("CR3 write", 50, write_cr3(cr3));
    MEASURE("CR3 write and 64 pages", 50, {
        write_cr3(cr3);
        sink += touch();
    });
    LEAST(flushed, 50, write_cr3(cr3); touch())
    LEAST(flush, 50, write_cr3(cr3))
    LEAST(hit, 50, touch())
    report("TLB miss", (flushed - flush - hit) / (50 * PAGES));
    MEASURE("INVLPG and its page", 200, {
        __asm__ volatile("invlpg %0" ::"m"(*WINDOW));
        sink += *WINDOW;
    });
    MEASURE("#UD and IRET", 200, __asm__ volatile("ud2"));
    LEAST(calls, 1, call_kernel(1001))
    LEAST(call, 1, call_kernel(1))
    report("SYSCALL and SYSRET", (calls - call) / 1000);
    __asm__ volatile("sti");
    MEASURE("interrupt to itself, EOI, IRET", 50, {
        u32 before = *(volatile u32 *)&interrupts;
        APIC(0x300) = 0x40000 | VECTOR;
        while (*(volatile u32 *)&interrupts == before)
            ;
    });
    __asm__ volatile("cli");
    code[0] = 0xB8; /* mov eax, imm32; ret */
    code[5] = 0xC3;
    MEASURE("code written and called", 50, {
        *(volatile u32 *)(code + 1) = i;
        sink += ((u32 (*)(void))code)();
    });
    print("end\n");
    out(0xF4, 0);
}
