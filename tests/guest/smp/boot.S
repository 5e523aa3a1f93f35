# From multiboot's 32-bit entry, and from a start-up IPI's real mode, to 64-bit C.
# Physical memory is mapped one to one; linear address 0x80000000 is left to the tests (see paging.c).

#define CODE32 0x08
#define CODE64 0x10
#define DATA 0x18
#define TRAMPOLINE 0x8000
#define STACK_BITS 14
#define CPUS 8

        .section .multiboot, "a"
        .long 0x1BADB002, 0, -0x1BADB002

        .text
        .code32
        .globl _start
_start:
        cli
        mov %ebx, multiboot_info
        mov $cpu_0_stack, %esp
        # The page directories: the first and the fourth GiB in pieces of 2 MiB, present, writable, dirty.
        mov $low_directory, %edi
        mov $0xE3, %eax
        call fill_directory
        mov $high_directory, %edi
        mov $0xC00000E3, %eax
        call fill_directory
        # The other processors' real-mode code, below 1 MiB.
        mov $trampoline, %esi
        mov $TRAMPOLINE, %edi
        mov $(trampoline_end - trampoline), %ecx
        rep movsb
        lgdt gdt_pointer
        jmp enter_long_mode

fill_directory:
        mov $512, %ecx
1:      mov %eax, (%edi)
        movl $0, 4(%edi)
        add $0x200000, %eax
        add $8, %edi
        loop 1b
        ret

        .code16
trampoline:
        cli
        lgdtl %cs:(trampoline_gdt_pointer - trampoline)
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $CODE32, $ap_protected_mode
trampoline_gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
trampoline_end:

        .code32
ap_protected_mode:
        mov $DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
enter_long_mode:
        # PAE, OSFXSR, OSXMMEXCPT; the root; LME and NXE; PG and WP.
        mov $0x620, %eax
        mov %eax, %cr4
        mov $pml4, %eax
        mov %eax, %cr3
        mov $0xC0000080, %ecx
        mov $0x900, %eax
        xor %edx, %edx
        wrmsr
        mov $0x80010011, %eax
        mov %eax, %cr0
        ljmp $CODE64, $long_mode

        .code64
long_mode:
        mov $DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $1, %edi
        lock xadd %edi, started
        lea 1(%rdi), %esp
        shl $STACK_BITS, %esp
        add $stacks, %rsp
        call cpu_main
1:      hlt
        jmp 1b

        .data
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
gdt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
        .globl started, multiboot_info
started:
        .long 0
multiboot_info:
        .long 0
        .balign 4096
pml4:   .quad pdpt + 3
        .zero 4088
pdpt:   .quad low_directory + 3, 0, test_directory + 3, high_directory + 3
        .zero 4064

        .bss
        .balign 4096
        .globl test_directory
low_directory:  .skip 4096
high_directory: .skip 4096
test_directory: .skip 4096
stacks: .skip CPUS << STACK_BITS
cpu_0_stack = stacks + (1 << STACK_BITS)

        .section .note.GNU-stack, "", @progbits
