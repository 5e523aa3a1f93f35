"""What a BIOS would have left behind: interrupt controllers and timer as it sets them up, and handlers for
them in real mode.

For kernels whose boot protocol says that a BIOS has run. There are no BIOS services: every other vector leads
to an IRET. Sources: IBM PC/AT Technical Reference (1502494), section 5; Intel 8259A and 8254 data sheets.
"""

from __future__ import annotations

import struct
from typing import Final

from wirt.machine.boot.placement import Placement

BIOS_SEGMENT: Final = 0xF000
SETUP_OFFSET: Final = 0xE05B
"""Where the power-on self-test begins."""
TIMER_OFFSET: Final = 0xFEA5
SLAVE_OFFSET: Final = 0xFEE0
MASTER_OFFSET: Final = 0xFEE8
IRET_OFFSET: Final = 0xFF53
VECTORS: Final = 256
TIMER_VECTOR: Final = 0x08
"""Vector of the master controller's first input; 0x70 is that of the slave's."""
SLAVE_VECTOR: Final = 0x70

_PORTS: Final = (
    # The controllers: edges, vectors, slave on input 2, fully nested. Only the timer and the slave get
    # through, and of the slave nothing.
    *((0x20, 0x11), (0x21, TIMER_VECTOR), (0x21, 0x04), (0x21, 0x01)),
    *((0xA0, 0x11), (0xA1, SLAVE_VECTOR), (0xA1, 0x02), (0xA1, 0x01)),
    *((0x21, 0xFA), (0xA1, 0xFF)),
    # The timer's channel 0: 65536 ticks, 18.2 times a second.
    *((0x43, 0x36), (0x40, 0x00), (0x40, 0x00)),
)

_TIMER: Final = bytes.fromhex(
    "50"  #             push ax
    "1e"  #             push ds
    "31c0"  #           xor ax, ax
    "8ed8"  #           mov ds, ax
    "66ff066c04"  #     inc dword ptr [0x46c]
    "cd1c"  #           int 0x1c
    "1f"  #             pop ds
    "eb00"  #           jmp, to the end of interrupt
)
_END_OF_SLAVE: Final = bytes.fromhex(
    "50"  #             push ax
    "b020"  #           mov al, 0x20
    "e6a0"  #           out 0xa0, al
    "eb02"  #           jmp, to the master's behind its push
)
_END_OF_MASTER: Final = bytes.fromhex(
    "50"  #             push ax
    "b020"  #           mov al, 0x20
    "e620"  #           out 0x20, al
    "58"  #             pop ax
    "cf"  #             iret
)


def install(placement: Placement, entry: int, rax: int) -> int:
    """Put vectors, handlers and the code that sets up the hardware into RAM.

    Returns the address of that code. It is entered in 32-bit protected mode with flat segments, gives RAX its
    value and goes to `entry`; it changes no other register.
    """
    code = b"".join(bytes([0xB0, value, 0xE6, port]) for port, value in _PORTS)
    code += b"\xb8" + struct.pack("<I", rax)
    base = (BIOS_SEGMENT << 4) + SETUP_OFFSET
    code += b"\xe9" + struct.pack("<I", (entry - (base + len(code) + 5)) & 0xFFFF_FFFF)
    past_push = MASTER_OFFSET + 1 - (TIMER_OFFSET + len(_TIMER))
    pieces = {
        SETUP_OFFSET: code,
        TIMER_OFFSET: _TIMER[:-1] + bytes([past_push]),
        SLAVE_OFFSET: _END_OF_SLAVE.ljust(MASTER_OFFSET - SLAVE_OFFSET, b"\x90"),
        MASTER_OFFSET: _END_OF_MASTER,
        IRET_OFFSET: b"\xcf",
    }
    offsets = [IRET_OFFSET] * VECTORS
    offsets[TIMER_VECTOR : TIMER_VECTOR + 8] = [TIMER_OFFSET] + [MASTER_OFFSET] * 7
    offsets[SLAVE_VECTOR : SLAVE_VECTOR + 8] = [SLAVE_OFFSET] * 8
    placement.write_bios(0, b"".join(struct.pack("<HH", offset, BIOS_SEGMENT) for offset in offsets))
    for offset, piece in pieces.items():
        placement.write_bios((BIOS_SEGMENT << 4) + offset, piece)
    return base
