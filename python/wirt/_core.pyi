# ruff: noqa: PYI021 -- the docstrings of compiled code are here.
"""The Rust core: guest memory, the machine with its vCPU threads and devices, terminals and the KVM probe.

Integers from Python are checked: OverflowError for those that do not fit. Blocking calls let other threads
run and notice Ctrl-C within 50 ms.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, final

from _typeshed import ReadableBuffer

class CoreError(Exception):
    """What the core refused or failed to do, in one sentence without its full stop."""

@final
class Probe:
    """What /dev/kvm is worth on this host. `text` says it in a clause.

    The figures of the measurement are None where it did not run: instructions in the measured loop, how many
    of them KVM emulated (None also before Linux 5.14), nanoseconds for each.
    """

    @property
    def verdict(self) -> Literal["hardware", "emulating", "unavailable"]: ...
    @property
    def text(self) -> str: ...
    @property
    def api_version(self) -> int | None: ...
    @property
    def instructions(self) -> int | None: ...
    @property
    def emulated(self) -> int | None: ...
    @property
    def ns_per_instruction(self) -> float | None: ...

def probe() -> Probe:
    """Measure /dev/kvm. Takes 1 to 5 ms and leaves nothing behind."""

@final
class GuestMemory:
    """Guest RAM and ROM in one piece of memory, by guest-physical address.

    `regions` are (address, size, offset in that memory, read-only for the guest), page-aligned; the memory
    has at least `size` bytes, some of which no region may show yet. Raises CoreError for regions that overlap
    or make no sense, and when the host refuses.
    """

    def __init__(self, regions: Sequence[tuple[int, int, int, bool]], size: int = 0) -> None: ...
    @property
    def size(self) -> int:
        """Bytes in all regions."""
    @property
    def regions(self) -> list[tuple[int, int, int, bool]]:
        """The regions, ascending by address."""
    def read(self, gpa: int, size: int) -> bytes:
        """Return `size` bytes. Raises CoreError when not all are RAM, ValueError when `size` is beyond it."""
    def write(self, gpa: int, data: bytes) -> None:
        """Store `data`. Raises CoreError when not all of it falls on RAM."""
    def write_backing(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset` of the memory behind all regions, read-only or not. Raises CoreError when
        there are no such bytes.
        """

@final
class Terminal:
    """The far end of a serial line: the last `capacity` bytes of output, and a queue of 64 KiB of input."""

    def __init__(self, capacity: int = 1048576) -> None: ...
    def copy_to(self, fd: int) -> None:
        """Copy all output from now on to a duplicate of `fd` too, on a thread; the guest waits for a slow
        one.
        """
    def hold_back(self, position: int | None) -> None:
        """Keep the output after byte `position` for a reader, from the capacity on by letting the guest wait;
        None: no longer. Not together with `copy_to`.
        """
    def send(self, data: bytes, timeout: float | None = None) -> int:
        """Send input; return how many bytes were sent within `timeout` seconds or until the terminal
        closed.
        """
    def read(self, position: int, timeout: float | None = None) -> tuple[bytes, int, bool]:
        """Wait for output after byte `position`; return it, the position after it, and whether it was the
        last.

        It begins later than asked when the history is too short, and is empty when the time is up.
        """
    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the descriptor of `copy_to` has all output; False: the time is up."""
    def close(self) -> None:
        """End the terminal: readers get what is left."""
    @property
    def closed(self) -> bool: ...
    @property
    def copy_error(self) -> str | None:
        """Why output is no longer copied to the descriptor, if it is not."""

@final
class Network:
    """A network as one card sees it, with the cable to it. It outlives the machine.

    It is behind a duplicate of a connected stream or datagram `socket`; None: nobody else is in it. Frames
    are written as pcap to a duplicate of `capture`, of each at most `snaplen` bytes (1 to 262144). Raises
    CoreError when it is no such socket, OSError when a number is no open file.
    """

    def __init__(
        self, socket: int | None = None, capture: int | None = None, snaplen: int = 262144
    ) -> None: ...
    def set_plugged(self, plugged: bool) -> None:
        """Plug the cable in or out. Frames that came in between are lost."""
    @property
    def plugged(self) -> bool: ...
    @property
    def up(self) -> bool:
        """Whether it is plugged in and the network is there."""
    def close(self) -> None:
        """Let go of the socket and the capture, as soon as no machine has them any more."""

@final
class Medium:
    """The slot of a drive with removable media: empty at first. It outlives the machine."""

    def __init__(self) -> None: ...
    def insert(self, fd: int, readonly: bool) -> None:
        """Put in the image behind a duplicate of `fd` instead of what there is, and close the tray."""
    def remove(self) -> None:
        """Take out what there is, locked or not."""
    def set_open(self, open: bool) -> None:
        """Open or close the tray. What lies in an open one cannot be read."""
    def watch(self, told: Callable[[bool], None]) -> None:
        """Have `told` called, on a thread of its own, with each movement of the tray: true when it was
        opened.
        """
    def request_eject(self) -> None:
        """Press the button: the guest is asked to let go."""
    @property
    def locked(self) -> bool:
        """Whether the guest has asked that it stays in."""
    @property
    def open(self) -> bool:
        """Whether the guest has opened the tray."""

@final
class Balloon:
    """The host's end of a memory balloon. It outlives the machine: each balloon that is added is asked for
    what the last one was. All but the making raises CoreError without one.
    """

    def __init__(self) -> None: ...
    def set_target(self, bytes: int) -> None:
        """Ask the guest to make do with so many bytes. CoreError when it does not have as many."""
    @property
    def target(self) -> int:
        """Bytes that the guest was asked to make do with."""
    @property
    def size(self) -> int:
        """Bytes that the guest says it has left."""
    def statistics(self, timeout: float | None = None) -> dict[str, int] | None:
        """What the guest says of its memory now; None when nothing answers in time."""

@final
class Screen:
    """The far end of a VGA card. It outlives the machine: each card that is added shows here."""

    def __init__(self) -> None: ...
    def open_frame(self) -> Frame:
        """A new picture of the screen."""
    def text(self) -> str | None:
        """What is written on it, a line a row; None in graphics modes, or without a card."""

@final
class Frame:
    """One viewer's picture of the screen: 0 by 0 until it is brought up to date."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pixels(self) -> bytes:
        """A copy: rows from top to bottom, 32 bits 0x00RRGGBB a pixel, little-endian."""
    def update(self) -> list[tuple[int, int, int, int]]:
        """Look at the card; return what changed as (left, top, width, height)."""

class _Frame(Protocol):
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pixels(self) -> ReadableBuffer: ...

@final
class PixelFormat:
    """A VNC client's pixel format, from its 16 bytes (RFC 6143, section 7.4), and the encodings in it.

    ValueError says which rule the bytes break, and that a frame has fewer pixels than it says. `area` is
    (left, top, width, height), at most 8192 each; where the frame ends before, it is black. Frames are
    copied, then encoded without the interpreter's lock.
    """

    def __init__(self, data: bytes) -> None: ...
    @property
    def true_colour(self) -> bool:
        """Whether pixels are intensities; otherwise they are indices into `vnc_colour_map`."""
    def raw(self, frame: _Frame, area: tuple[int, int, int, int]) -> bytes:
        """Encode as Raw: pixels row by row."""
    def zrle(self, frame: _Frame, area: tuple[int, int, int, int]) -> bytes:
        """Encode as ZRLE, before its compression."""
    def tight(
        self, frame: _Frame, area: tuple[int, int, int, int]
    ) -> list[tuple[tuple[int, int, int, int], bytes, int | None, bytes]]:
        """Encode as rectangles in Tight: area, control byte and what follows it, zlib stream, pixels.

        The pixels of a rectangle with a stream are compressed by it where they are 12 bytes or more.
        """

def vnc_colour_map() -> bytes:
    """The 256 colours for clients without true colour, as SetColourMapEntries has them."""

def vnc_response(password: bytes, challenge: bytes) -> bytes:
    """What a client that knows the password answers to a challenge of 16 bytes. RFC 6143, section 7.2.2."""

@final
class Action:
    """What a device's write asks of its machine."""

    @staticmethod
    def reset() -> Action:
        """Reset the machine."""
    @staticmethod
    def shutdown() -> Action:
        """Power the machine off."""
    @staticmethod
    def exit(status: int) -> Action:
        """End the machine with `status`, 0 to 255."""

@final
class Event:
    """How a machine's run ended."""

    @property
    def kind(
        self,
    ) -> Literal["shutdown", "reset", "exit", "triple-fault", "halted", "internal-error", "killed"]: ...
    @property
    def status(self) -> int | None:
        """The status of an exit."""
    @property
    def vcpu(self) -> int | None:
        """Which vCPU, for faults and errors."""
    @property
    def message(self) -> str | None:
        """What an internal error was."""
    @property
    def instruction(self) -> bytes | None:
        """At most 15 bytes at the instruction pointer of an internal error."""
    @property
    def registers(self) -> dict[str, _Register] | None:
        """The registers at an internal error, if they could be read."""

_Register: TypeAlias = int | tuple[int, int] | tuple[int, int, int, int]

class _Device(Protocol):
    def read(self, offset: int, size: int, /) -> int: ...
    def write(self, offset: int, size: int, value: int, /) -> Action | None: ...

@final
class IrqLine:
    """A device's connection to a global system interrupt; several may share it. Dropping it lets the line
    go.
    """

    def set(self, high: bool) -> None: ...
    def pulse(self) -> None: ...

@final
class Machine:
    """A machine of `cpus` vCPUs on the accelerator "kvm" or "recompiler", with its interrupt controllers.

    created -> running <-> paused -> ended. An ended machine's vCPUs can be looked at until it is closed. All
    methods raise CoreError for what the state does not allow. `cpu` is a processor model: host, x86-64-v2,
    x86-64-v3 or x86-64-v4; CoreError when this host cannot be one.
    """

    def __init__(
        self,
        memory: GuestMemory,
        cpus: int,
        accelerator: str,
        cpu: str = "host",
        dump_block: int | None = None,
        perf_map: Sequence[tuple[int, str]] | None = None,
        firmware: int | None = None,
        virtio: Literal["transitional", "modern", "legacy"] = "transitional",
    ) -> None:
        """`dump_block` is a linear guest address: `listings` has the recompiler's blocks that hold it.
        `perf_map`: it writes /tmp/perf-PID.map for perf, with these addresses and names of guest code.
        `firmware` is the offset in `memory` of the 128 KiB that answer below 1 MiB until the guest asks for
        RAM there. `virtio` says which interfaces virtio devices have.
        """
    def listings(self) -> str:
        """Guest code beside host code, of the blocks that were asked for."""
    @property
    def accelerator(self) -> str: ...
    @property
    def cpus(self) -> int: ...
    @property
    def state(self) -> Literal["created", "running", "paused", "ended"]: ...
    def add_uart(self, name: str, port: int, irq: int, terminal: Terminal) -> None:
        """Add a 16550A at 8 ports from `port` on, with interrupt line `irq`."""
    def add_parallel(self, name: str, port: int, irq: int, terminal: Terminal) -> None:
        """Add a parallel port with a printer, at 3 ports from `port` on, with interrupt line `irq`."""
    def add_floppies(self, drives: Sequence[tuple[Medium, int | None]]) -> None:
        """Add the floppy controller with one or two drives, once: what is in each, and the size in bytes of
        the disks that it is for (None: 1.44 MB).
        """
    def add_pc_testdev(self) -> None:
        """Add pc-testdev: interrupt lines at ports 0x2000 to 0x2017, a latch at 0xE0, memory at
        0xFF000000.
        """

    def add_debug_exit(self) -> None:
        """Add isa-debug-exit: a write of `value` to ports 0xF4 to 0xF7 ends the machine with `value << 1 |
        1`.
        """
    def add_debug_port(self, fd: int) -> None:
        """Add the debug port 0x402, which writes to a duplicate of `fd`."""
    def press_power_button(self) -> None:
        """Ask the guest to power off."""
    def press_nmi_button(self) -> None:
        """Pulse the NMI pin of every processor. What that does there is in its local APIC (LINT1)."""
    def add_usb_tablet(self) -> None:
        """Plug a tablet into the USB controller, which is added with the first device."""
    def add_usb_keyboard(self) -> None:
        """Plug a keyboard into the USB controller."""
    def key(self, code: int, down: bool) -> None:
        """Press a key of the USB keyboard, where the guest listens to one, or else of the PS/2 keyboard; or
        let it go. Does not wait.

        `code` is the key's in scan code set 1, plus 0x80 where E0 goes before it, as in RFB's extended key
        event: Print Screen is 0xB7, Pause 0xC6. What is no key's is ignored, and so is what does not change:
        the keyboard repeats keys that are held.
        """
    def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """Move the PS/2 mouse right and down, turn its wheel by `dz` notches towards the user, and set its
        buttons: bit 0 left, 1 right, 2 middle, 3 and 4 the fourth and fifth. Does not wait; movements add up.
        """
    def tablet(self, x: int, y: int, wheel: int, buttons: int) -> bool:
        """Put the USB tablet's pointer at (x, y), from 0 to 0x7FFF, the rest as for `mouse` (buttons 0 to 2).

        False, with nothing done, when the guest listens to no tablet.
        """
    @property
    def keyboard_leds(self) -> int:
        """The lights of the keyboard that `key` presses: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock."""
    def add_disk(self, slot: int, name: str, fd: int, readonly: bool, serial: str) -> None:
        """Add a virtio disk over a duplicate of `fd` at PCI slot 2 to 31. `serial`: at most 20 ASCII
        bytes.
        """
    def add_scsi(
        self, slot: int, name: str, targets: Sequence[tuple[int, tuple[int, bool, str] | tuple[Medium, str]]]
    ) -> None:
        """Add a virtio SCSI host with targets 0 to 255, each with one unit.

        A disk is (descriptor, read-only, serial number), a CD-ROM drive (slot, serial number).
        """
    def add_net(self, slot: int, name: str, mac: bytes, network: Network, rom: bytes) -> None:
        """Add a virtio network card. `mac` are 6 bytes; an empty `rom` is none."""
    def add_e1000(self, slot: int, name: str, mac: bytes, network: Network, rom: bytes) -> None:
        """Add an Intel 82540EM network card."""
    def add_rng(self, slot: int, name: str) -> None:
        """Add a virtio source of randomness."""
    def add_console(self, slot: int, terminal: Terminal, ports: Sequence[tuple[str, Terminal]]) -> None:
        """Add a virtio console, and beside it ports with these names."""
    def add_balloon(
        self, slot: int, balloon: Balloon, ram: int, deflate_on_oom: bool, free_page_reporting: bool
    ) -> None:
        """Add a balloon for the guest's RAM, the first `ram` bytes of guest memory's backing."""
    def add_vga(self, slot: int, screen: Screen, offset: int, size: int, rom: bytes) -> None:
        """Add the VGA card, with `size` bytes of memory at `offset` of guest memory's backing, and its
        BIOS.
        """
    def add_ide(self, drives: Sequence[tuple[int, bool, str] | tuple[Medium, str] | None]) -> None:
        """Add the IDE function with four drives, of the primary and then the secondary channel.

        A disk is (descriptor, read-only, serial number), a CD-ROM drive (slot, serial number).
        """
    def add_ahci(
        self, slot: int, name: str, drives: Sequence[tuple[int, bool, str] | tuple[Medium, str] | None]
    ) -> None:
        """Add an AHCI adapter with the drives of its six ports.

        A disk is (descriptor, read-only, serial number), a CD-ROM drive (slot, serial number).
        """
    def add_flash(self, name: str, address: int, size: int, offset: int, fd: int, readonly: bool) -> None:
        """Add a flash chip whose contents are the file's, shown at `address` and kept at `offset` of the
        backing memory; what the guest programs goes to the file.
        """
    def add_hpet(self) -> None:
        """Add the HPET."""
    def add_pvpanic(self, told: Callable[[str], None]) -> None:
        """Add pvpanic; `told` is called on a vCPU's thread with panicked, crashloaded or shutdown."""
    def add_watchdog(self, slot: int, action: str, timed_out: bool, told: Callable[[str], None]) -> None:
        """Add the i6300esb, whose expiry does `action`: reset, poweroff, pause (which is the caller's) or
        none.

        `told` is called with "expired", and must not wait. `timed_out`: an expiry began this run.
        """
    def add_port_device(
        self, device: _Device, name: str, first: int, last: int, sizes: tuple[int, int]
    ) -> None:
        """Let a Python device answer the ports `first` to `last`; `sizes`: narrowest and widest access."""
    def add_mmio_device(
        self, device: _Device, name: str, first: int, last: int, sizes: tuple[int, int]
    ) -> None:
        """Let a Python device answer guest-physical addresses `first` to `last`."""
    def assign_pci_resources(self) -> None:
        """Do what firmware would: place base address registers, route interrupts, enable decoding."""
    def irq_line(self, gsi: int) -> IrqLine:
        """A connection to global system interrupt `gsi`, 0 to 23."""
    def bus_map(self) -> list[tuple[str, int, int, str]]:
        """What answers where: ("port" or "mmio", first, last, device), ascending."""
    def start(self) -> None: ...
    def pause(self) -> None:
        """Stop all vCPUs and return when they stand still."""
    def resume(self) -> None: ...
    def wait_on_io_errors(self, told: Callable[[str], None]) -> None:
        """From now on have requests of disks that are added wait, where the host cannot do them, until the
        machine is resumed. `told` is called with the system's reason when one begins to, on its thread.
        """
    def kill(self) -> None:
        """End the machine now. Returns at once."""
    def close(self) -> None:
        """End the machine and its threads; let go of its devices."""
    def wait(self, timeout: float | None = None) -> Event | None:
        """Wait for the end; None when `timeout` seconds are over."""
    def registers(self, cpu: int) -> dict[str, _Register]:
        """The registers of a vCPU by name: integers, segments as (selector, base, limit, access), descriptor
        tables as (base, limit), and `halted`."""
    def set_registers(self, cpu: int, values: Mapping[str, _Register]) -> None:
        """Set some registers. Raises KeyError for a name that is none."""
    def translate(self, cpu: int, linear: int) -> int | None:
        """The physical address behind a linear one; None: not mapped."""
    def statistics(self, cpu: int) -> dict[str, int]:
        """The accelerator's counters for a vCPU."""
