"""`wirt run`: one virtual machine, on this terminal, from its start to its end."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wirt.cli import counters, monitored
from wirt.cli.options import seconds
from wirt.cli.session import Session
from wirt.errors import Error, UsageError
from wirt.machine.drives import CDROM_BUSES, DISK_BUSES
from wirt.machine.hardware import VIRTIO_INTERFACES
from wirt.vm import VM, Cdrom, Disk, Floppy, Instruments, far_end, run
from wirt.vm.accelerator import ACCELERATORS
from wirt.vm.spec import CPU_MODELS
from wirt.vm.vm import IO_ERROR_ACTIONS

USAGE: Final = """\
wirt run [tiny] [OPTION]...
       wirt run --kernel FILE [--initrd FILE] [--append TEXT] [OPTION]...
       wirt run --disk FILE|--cdrom FILE [--firmware seabios|ovmf|FILE] [OPTION]..."""

DESCRIPTION: Final = """\
Runs a virtual machine on this terminal until the guest powers off. A kernel is
started directly, disks and CD-ROMs are booted by firmware. Without either, and where tiny
is said, it is the built-in guest tiny: Debian's cloud kernel with BusyBox, which
is fetched and made when it is first used, and powers off when its shell ends."""

EPILOG: Final = """\
sizes:
  A number with K, M, G or T (KiB, MiB and so on mean the same), or bytes.

keys, where the serial console is a terminal:
  Ctrl-a x       switch the machine off and leave
  Ctrl-a c       let a machine go on that was stopped
  Ctrl-a h       show these keys
  Ctrl-a Ctrl-a  send one Ctrl-a to the guest
  All others, Ctrl-C among them, go to the guest.

examples:
  wirt run                                     a shell in the built-in guest
  wirt run tiny -c 2 -m 1G --disk data.img     with 2 vCPUs and a disk, /dev/vda
  wirt run -m 1G --disk debian.img             the system on a disk
  wirt run -m 1G --disk new.img --cdrom debian.iso --display vnc
  wirt run --exec 'nproc; cat /proc/meminfo'   one command, its output, its status
  wirt run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 quiet'
  wirt run --kernel test.elf --device isa-debug-exit --timeout 60
  wirt run --name web --disk web.img --serial none &    and later: wirt stop web

exit status:
  0      the guest powered off, or Ctrl-a x
  1      the guest crashed (triple fault), the time was up, or Wirt failed
  2      wrong usage
  3      a file was not found
  4      the host has not the capacity
  other  of the command of --exec, or what the guest gave isa-debug-exit
         (for those two, also 0 to 4); 128+N when ended by signal N"""


STDIO: Final = "stdio"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `wirt run`."""
    boot = parser.add_argument_group("what to boot")
    boot.add_argument("guest", nargs="?", metavar="tiny", help="the built-in guest")
    boot.add_argument("--kernel", metavar="FILE", help="a bzImage, an ELF file with PVH note, or Multiboot")
    boot.add_argument("--initrd", metavar="FILE", help="the initial RAM disk, or the Multiboot module")
    boot.add_argument("--append", metavar="TEXT", help="the kernel's command line; for tiny, more of it")
    boot.add_argument(
        "--firmware",
        metavar="seabios|ovmf|none|FILE",
        help="what boots from disks (default: seabios, where there are some and no kernel)",
    )
    boot.add_argument(
        "--nvram", metavar="FILE", help="where ovmf keeps its variables, made if missing (default: nowhere)"
    )
    boot.add_argument(
        "--boot",
        default="",
        metavar="disk,cdrom,floppy,net",
        help="what firmware tries first (default: disk,cdrom,floppy,net)",
    )
    boot.add_argument("--boot-menu", action="store_true", help="let firmware ask what to boot")
    boot.add_argument("--exec", metavar="CMD", help="run a command in tiny, print its output, power off")
    machine = parser.add_argument_group("the machine")
    machine.add_argument(
        "-c", "--cpus", type=_cpus, default=1, metavar="N", help="virtual CPUs, 1 to 255 (default: 1)"
    )
    machine.add_argument(
        "--cpu",
        default="host",
        choices=CPU_MODELS,
        help="the processor a guest is shown: host (default) is all that there is",
    )
    machine.add_argument(
        "-m", "--memory", default="512M", metavar="SIZE", help="memory, for instance 2G (default: 512M)"
    )
    machine.add_argument(
        "-d",
        "--disk",
        action="append",
        default=[],
        type=_disk,
        metavar="FILE[,ro][,bus=virtio|ide|ahci|scsi]",
        help="a raw image or a block device, ro: read-only, bus: what it hangs on (default: virtio); may be "
        "given "
        "several times",
    )
    machine.add_argument(
        "--cdrom",
        action="append",
        default=[],
        type=_cdrom,
        metavar="FILE|none[,bus=ide|ahci|scsi]",
        help="a CD-ROM drive with this image, or an empty one, and what it hangs on (default: ide); may be "
        "given several times",
    )
    machine.add_argument(
        "--net",
        action="append",
        metavar="NETWORK[,OPTION=VALUE]",
        help="a network card on unix:PATH, tcp:HOST:PORT, udp:PORT:HOST:PORT or fd:NUMBER, sockets that "
        "speak as QEMU's and passt's do, or isolated, with nobody else (default); none: no card. Options: "
        "model=virtio|e1000, mac=ADDRESS, rom=none|FILE, capture=FILE, snaplen=BYTES. May be given several "
        "times",
    )
    machine.add_argument(
        "--floppy",
        action="append",
        default=[],
        type=_floppy,
        metavar="FILE[,ro]|none",
        help="a floppy drive with this image, or an empty one; may be given twice",
    )
    machine.add_argument(
        "--vga",
        choices=("std", "none"),
        help="whether there is a VGA card (default: std with firmware or a display)",
    )
    machine.add_argument(
        "--display",
        metavar="vnc[:PORT]|none",
        help="let VNC viewers in, on this machine alone unless an address is given (default: none); "
        "'wirt devices' and docs/display.md tell more",
    )
    machine.add_argument(
        "--serial",
        action="append",
        type=_serial,
        metavar="stdio|file:FILE|pty|unix:FILE|tcp:PORT|none",
        help="where a serial port goes, COM1 first; unix and tcp let clients connect, tcp:PORT those of this "
        "machine alone, tcp:HOST:PORT others (default: stdio, and one port); may be given four times",
    )
    machine.add_argument(
        "--parallel",
        action="append",
        default=[],
        metavar="file:FILE|none",
        help="where a printer on a parallel port prints to; may be given twice",
    )
    machine.add_argument(
        "--virtio",
        choices=VIRTIO_INTERFACES,
        default="transitional",
        help="the interfaces of virtio devices (default: transitional, for drivers new and old)",
    )
    machine.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME[,OPTION=VALUE]",
        help="a device by its name; 'wirt devices' lists them; may be given several times",
    )
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--accel",
        default="auto",
        choices=ACCELERATORS,
        help="auto (default) takes KVM if measuring finds that it runs guests on the processor",
    )
    running.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="switch it off after that time, exit status 1"
    )
    running.add_argument(
        "--on-io-error",
        default="report",
        choices=IO_ERROR_ACTIONS,
        help="report (default) tells the guest; pause stops the machine until Ctrl-a c, and tries again",
    )
    monitored.configure(running)
    running.add_argument("--no-reboot", action="store_true", help="a reset by the guest ends the machine")
    running.add_argument(
        "--accel-stats", action="store_true", help="in the end show the accelerator's counters on stderr"
    )
    looking = parser.add_argument_group("a look at the recompiler")
    looking.add_argument(
        "--dump-block",
        type=_address,
        metavar="ADDR",
        help="in the end list guest code beside host code, of the blocks at this guest address (hexadecimal)",
    )
    looking.add_argument(
        "--perf-map", action="store_true", help="name translated blocks in /tmp/perf-PID.map, for perf"
    )
    looking.add_argument(
        "--symbols", metavar="FILE", help="names of guest code for it: vmlinux, System.map or kallsyms"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Run the machine and return the exit status."""
    if arguments.guest is None and arguments.kernel is None:
        if arguments.initrd is not None:
            raise UsageError("An initrd needs a kernel: give --kernel, or say tiny for that guest's own.")
        media = (arguments.disk, arguments.cdrom, arguments.floppy, arguments.boot)
        from_media = any(media) or arguments.firmware is not None
        if arguments.exec is not None or not from_media:
            arguments.guest = "tiny"
    with monitored.monitored(arguments) as serve:
        if arguments.exec is not None:
            _check_output()
            return _run_command(arguments, serve)
        return _run_machine(arguments, serve)


def _run_machine(arguments: argparse.Namespace, serve: Callable[[VM], None]) -> int:
    wishes: list[str] = arguments.serial or [STDIO]
    on_stdio = wishes.index(STDIO) if STDIO in wishes else None
    if on_stdio is not None:
        if wishes.count(STDIO) > 1:
            raise UsageError(
                "One serial port can be on standard input and output: send the others elsewhere."
            )
        _check_output()
    vm = VM(
        arguments.guest,
        kernel=arguments.kernel,
        initrd=arguments.initrd,
        append=_append(arguments, on_stdio),
        firmware=arguments.firmware,
        nvram=arguments.nvram,
        boot=arguments.boot,
        boot_menu=arguments.boot_menu,
        memory=arguments.memory,
        cpus=arguments.cpus,
        cpu=arguments.cpu,
        disks=arguments.disk,
        cdroms=arguments.cdrom,
        floppies=arguments.floppy,
        nets=arguments.net,
        serials=[1 if wish == STDIO else wish for wish in wishes],
        parallels=arguments.parallel,
        vga=None if arguments.vga is None else arguments.vga == "std",
        display=None if arguments.display == "none" else arguments.display,
        virtio=arguments.virtio,
        accel=arguments.accel,
        devices=arguments.device,
        on_io_error=arguments.on_io_error,
        log=_log,
        reboot=not arguments.no_reboot,
        instruments=_instruments(arguments),
    )
    with contextlib.closing(vm):
        serve(vm)
        _announce(vm, arguments)
        _tell_places(vm)
        session = Session(
            vm,
            console=vm.console if on_stdio is None else vm.consoles[on_stdio],
            keyboard=None if on_stdio is None else 0,
            output=None if on_stdio is None else 1,
            timeout=arguments.timeout,
        )
        try:
            ending = session.run()
        finally:
            _show_instruments(vm, arguments)
    if ending.message is not None:
        print(f"wirt: {ending.message}", file=sys.stderr)
    return ending.exit_status


def _log(sentence: str) -> None:
    # The terminal may be in raw mode, where a new line does not begin at the left.
    end = "\r\n" if os.isatty(2) else "\n"
    print(f"wirt: {sentence}", end=end, file=sys.stderr, flush=True)


def _append(arguments: argparse.Namespace, on_stdio: int | None) -> str | None:
    """The kernel's command line; for tiny at a terminal also the window's size, as a serial line has none.
    Linux gives such words to the first process as its environment.
    """
    append: str | None = arguments.append
    if arguments.guest is not None and on_stdio == 0 and os.isatty(0) and os.isatty(1):
        columns, lines = os.get_terminal_size(1)
        if columns and lines:
            window = f"LINES={lines} COLUMNS={columns}"
            append = window if append is None else f"{append} {window}"
    return append


def _run_command(arguments: argparse.Namespace, serve: Callable[[VM], None]) -> int:
    if arguments.guest not in (None, "tiny") or arguments.kernel is not None or arguments.initrd is not None:
        raise UsageError("--exec runs in the built-in guest tiny: leave other guests and kernels out.")
    for option in ("firmware", "nvram", "boot", "boot_menu", "cdrom", "floppy", "parallel", "vga", "display"):
        if getattr(arguments, option):
            name = option.replace("_", "-")
            raise UsageError(
                f"--exec runs in the built-in guest tiny, which has no use for it: leave --{name} out."
            )
    if arguments.serial is not None:
        raise UsageError("--exec needs the serial console for itself: leave --serial out.")

    def on_start(vm: VM) -> None:
        serve(vm)
        _announce(vm, arguments)

    completed = run(
        arguments.exec,
        append=arguments.append,
        memory=arguments.memory,
        cpus=arguments.cpus,
        cpu=arguments.cpu,
        disks=arguments.disk,
        nets=arguments.net,
        virtio=arguments.virtio,
        accel=arguments.accel,
        devices=arguments.device,
        instruments=_instruments(arguments),
        timeout=arguments.timeout,
        on_start=on_start,
        on_output=_write_output,
        on_end=lambda vm: _show_instruments(vm, arguments),
    )
    return completed.returncode


def _announce(vm: VM, arguments: argparse.Namespace) -> None:
    if not arguments.quiet:
        print(f"wirt: accelerator {vm.accelerator}: {vm.accelerator_reason}", file=sys.stderr, flush=True)
        if vm.display is not None:
            print(f"wirt: VNC viewers are let in at {vm.display.address}", file=sys.stderr, flush=True)


def _tell_places(vm: VM) -> None:
    """Say where ports are reached, also to those who want it quiet: nobody could know it."""
    for port, place in vm.places.items():
        print(f"wirt: {port} is at {place}", file=sys.stderr, flush=True)


def _instruments(arguments: argparse.Namespace) -> Instruments:
    if arguments.symbols is not None and not arguments.perf_map:
        raise UsageError("--symbols are for the map of --perf-map: give it as well.")
    symbols = None
    if arguments.perf_map:
        symbols = []
        if arguments.symbols is not None:
            from wirt.machine.symbols import read_symbols

            symbols = read_symbols(Path(arguments.symbols))
    return Instruments(arguments.dump_block, symbols)


def _show_instruments(vm: VM, arguments: argparse.Namespace) -> None:
    if arguments.dump_block is not None:
        listings = vm.listings() or f"No block at {arguments.dump_block:#x} was translated.\n"
        print(listings, end="", file=sys.stderr)
    if arguments.accel_stats:
        for vcpu in vm.vcpus:
            print(counters.text(vcpu.index, vcpu.statistics), file=sys.stderr)


def _write_output(output: bytes) -> None:
    while output:
        output = output[os.write(1, output) :]


def _check_output() -> None:
    """Raise Error when standard output takes nothing, before a machine runs for it."""
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise Error("Standard output is closed: open it, or redirect it to /dev/null.")


def _cpus(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{text!r} is no number of vCPUs: give 1 to 255.")
    return int(text)


def _address(text: str) -> int:
    try:
        address = int(text, 16)
    except ValueError:
        address = -1
    if not 0 <= address < 1 << 64:
        raise UsageError(f"{text!r} is no address: give it in hexadecimal, for instance ffffffff81000000.")
    return address


def _disk(text: str) -> Disk:
    path, readonly, bus = text, False, DISK_BUSES[0]
    while True:
        # From the end: what is no option is a part of the name.
        rest, comma, word = path.rpartition(",")
        if not comma:
            break
        if word == "ro":
            path, readonly = rest, True
        elif word.startswith("bus="):
            known = next((bus for bus in DISK_BUSES if word == f"bus={bus}"), None)
            if known is None:
                raise UsageError(
                    f"A disk hangs on no {word.removeprefix('bus=')!r}: use {' or '.join(DISK_BUSES)}."
                )
            path, bus = rest, known
        else:
            break
    if not path:
        raise UsageError("--disk needs a file: write --disk FILE, or --disk FILE,ro for a read-only one.")
    return Disk(Path(path), readonly, bus)


def _serial(text: str) -> str:
    if text != STDIO:
        try:
            far_end.parse("", text, far_end.SERIAL_KINDS)
        except UsageError:
            known = "stdio, file:FILE, pty, unix:FILE, tcp:HOST:PORT or none"
            raise UsageError(f"{text!r} is no place for a serial port: use {known}.") from None
    return text


def _floppy(text: str) -> Floppy | None:
    path = text.removesuffix(",ro")
    return None if text == "none" else Floppy(Path(path), readonly=path != text)


def _cdrom(text: str) -> Cdrom:
    path, bus = text, CDROM_BUSES[0]
    rest, comma, word = path.rpartition(",")
    if comma and word.startswith("bus="):
        known = next((bus for bus in CDROM_BUSES if word == f"bus={bus}"), None)
        if known is None:
            raise UsageError(
                f"A CD-ROM drive hangs on no {word.removeprefix('bus=')!r}: use {' or '.join(CDROM_BUSES)}."
            )
        path, bus = rest, known
    if not path:
        raise UsageError("--cdrom needs an image: write --cdrom FILE, or --cdrom none for an empty drive.")
    return Cdrom(None if path == "none" else Path(path), bus)
