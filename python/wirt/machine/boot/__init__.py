"""Direct boot: put a kernel into guest RAM and compute the state in which vCPU 0 enters it.

Three formats are told apart by their contents: Linux bzImage (64-bit entry), ELF with a PVH note, Multiboot
1.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from wirt.machine.boot import bzimage, elf, multiboot
from wirt.machine.boot.image import BootError, BootUsageError, Image, open_image
from wirt.machine.boot.placement import Placement
from wirt.machine.boot.state import DescriptorTable, EntryState, Segment
from wirt.machine.memory_map import KIB, GuestMemory, MemoryMap

__all__ = ["BootError", "BootUsageError", "DescriptorTable", "EntryState", "Segment", "load"]

MAX_CMDLINE = 64 * KIB
LINUX_CMDLINE = "console=ttyS0"
"""What Linux is told when nobody says anything else: to use the serial console."""


def load(
    memory: GuestMemory,
    layout: MemoryMap,
    kernel: bytes | Path,
    initrd: bytes | Path | None = None,
    cmdline: str | None = "",
    acpi_rsdp: int = 0,
) -> EntryState:
    """Load `kernel`, and `initrd` beside it, into `memory`, laid out by `layout`.

    Without a `cmdline` (None), Linux (bzImage and PVH) is told of the serial console, and a Multiboot
    kernel, to which that would mean something else, nothing. `acpi_rsdp` is the guest-physical address of
    the RSDP, or 0 where there is none or it is to be found by scanning. Only usable RAM is written, and
    what belongs to a BIOS. After an error RAM may hold a part of the image.

    Raises BootError, with one sentence for the user, for whatever cannot be booted; its kind BootUsageError
    where more memory or another command line would help.
    """
    arguments = None if cmdline is None else cmdline.encode("utf-8", "surrogateescape")
    if arguments is not None and b"\0" in arguments:
        raise BootUsageError("The kernel command line contains a NUL character: remove it.")
    if arguments is not None and len(arguments) > MAX_CMDLINE:
        raise BootUsageError(
            f"The kernel command line has {len(arguments)} bytes: at most {MAX_CMDLINE} are possible."
        )
    with ExitStack() as files:
        kernel_image = files.enter_context(open_image(kernel, "kernel"))
        initrd_image = files.enter_context(open_image(initrd, "initrd")) if initrd is not None else None
        placement = Placement(memory, layout)
        state = _load(placement, kernel_image, initrd_image, arguments, acpi_rsdp)
        placement.write_bios_data_area()
        return state


def _load(
    placement: Placement, kernel: Image, initrd: Image | None, cmdline: bytes | None, acpi_rsdp: int
) -> EntryState:
    for_linux = LINUX_CMDLINE.encode() if cmdline is None else cmdline
    if bzimage.recognises(kernel):
        return bzimage.load(placement, kernel, initrd, for_linux, acpi_rsdp)
    if elf.recognises(kernel):
        executable = elf.Elf.parse(kernel)
        pvh_entry = elf.pvh_entry(kernel, executable)
        if pvh_entry is not None:
            return elf.load_pvh(placement, kernel, executable, pvh_entry, initrd, for_linux, acpi_rsdp)
        header = multiboot.find_header(kernel)
        if header is None:
            raise BootError(
                f"The {kernel.what} is an ELF file with neither a PVH note nor a Multiboot header: "
                "use the bzImage (vmlinuz), or a kernel built with CONFIG_PVH."
            )
        return multiboot.load(placement, kernel, header, executable, initrd, cmdline or b"")
    header = multiboot.find_header(kernel)
    if header is None:
        raise BootError(f"The {kernel.what} is not a kernel: it is neither bzImage, nor ELF, nor Multiboot.")
    return multiboot.load(placement, kernel, header, None, initrd, cmdline or b"")
