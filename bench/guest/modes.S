# Around modes.c, at linear address 0x10000: in 32-bit protected mode with flat segments, or in real mode. Port 0xf4 gets
# the checksum.
.intel_syntax noprefix
.text
#ifdef REAL_MODE
.code16
    # From a 16-bit code segment of protected mode with that base.
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp 0x1000, offset real
real:
    mov ax, 0x1000
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0xfff0
    .byte 0x66, 0xe8
    .long work - . - 4
#else
    mov esp, 0x1fff0
    call work
#endif
    mov dx, 0xf4
    out dx, al
    cli
    hlt
    .section .note.GNU-stack, "", @progbits
