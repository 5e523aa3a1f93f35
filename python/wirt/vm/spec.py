"""What a virtual machine is made of, checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, NamedTuple

from wirt.devices.device import Device, check_ranges
from wirt.devices.fw_cfg import MAX_NAME, MAX_SIZE
from wirt.errors import CapacityError, NotFoundError, UsageError
from wirt.machine import hardware, rom
from wirt.machine.acpi import PARALLEL_PORTS, SERIAL_PORTS
from wirt.machine.drives import (
    BOOT_ORDER,
    MAX_FLOPPIES,
    BootKind,
    Cdrom,
    Disk,
    Floppy,
    ahci_ports,
    ide_places,
    scsi_targets,
)
from wirt.machine.firmware import USER_PREFIX
from wirt.machine.memory_map import MIN_RAM, PAGE_SIZE
from wirt.machine.nets import Card, Net, cards_of, check_nets, parse_net
from wirt.machine.pc import MAX_DISKS
from wirt.vm import far_end
from wirt.vm.sizes import format_size, parse_size

MAX_CPUS: Final = 255
CPU_MODELS: Final = ("host", "x86-64-v2", "x86-64-v3", "x86-64-v4")
MAX_FW_CFG_FILES: Final = 1000
"""Far more than anybody needs, and far fewer than there are selectors."""
MAX_PORTS: Final = 30
"""Ports of the virtio console besides the console itself."""
MAX_PORT_NAME: Final = 64
Guest = Literal["tiny"]


class Spec(NamedTuple):
    """A machine, before it exists. `memory` is in bytes."""

    guest: Guest | None
    kernel: Path | bytes | None
    initrd: Path | bytes | None
    append: str | None
    firmware: rom.Firmware | None
    nvram: Path | None
    """The file of a firmware's variables; None: they are forgotten with the machine."""
    boot: tuple[BootKind, ...]
    boot_menu: bool
    memory: int
    cpus: int
    cpu: str
    disks: tuple[Disk, ...]
    cdroms: tuple[Cdrom, ...]
    """The CD-ROM drives, and what is in each at the start."""
    floppies: tuple[Floppy | None, ...]
    """What is in each floppy drive at the start."""
    serials: tuple[far_end.Wish, ...]
    parallels: tuple[far_end.Wish, ...]
    nets: tuple[Net, ...]
    cards: tuple[Card, ...]
    """Network cards, and what goes into the machine for each."""
    vga: bool
    virtio: hardware.VirtioInterfaces
    ports: tuple[str, ...]
    """Names of the virtio console's other ports."""
    devices: tuple[Device, ...]
    named_devices: tuple[hardware.NamedDevice, ...]
    fw_cfg: Mapping[str, bytes]
    uuid: bytes
    """16 bytes, in the order in which UUIDs are written (RFC 9562)."""

    @property
    def files(self) -> list[Path]:
        """The files that the machine reads or writes."""
        images = [self.kernel, self.initrd, self.nvram]
        images += [disk.path for disk in self.disks]
        images += [cdrom.path for cdrom in self.cdroms]
        return [image for image in images if isinstance(image, Path)]


def make_spec(
    *,
    guest: str | None,
    kernel: str | os.PathLike[str] | bytes | None,
    initrd: str | os.PathLike[str] | bytes | None,
    append: str | None,
    firmware: str | os.PathLike[str] | None = None,
    nvram: str | os.PathLike[str] | None = None,
    boot: str | Sequence[str] = (),
    boot_menu: bool = False,
    memory: str | int,
    cpus: int,
    cpu: str,
    disks: Sequence[str | os.PathLike[str] | Disk],
    cdroms: Sequence[str | os.PathLike[str] | Cdrom | None] = (),
    floppies: Sequence[str | os.PathLike[str] | Floppy | None] = (),
    serials: Sequence[int | str | None] = (None,),
    parallels: Sequence[int | str | None] = (),
    nets: Sequence[str | Net] | None = None,
    vga: bool | None = None,
    virtio: str = "transitional",
    ports: Sequence[str] = (),
    devices: Sequence[Device | str],
    fw_cfg: Mapping[str, bytes] | None = None,
) -> Spec:
    """Check what a user asked for against sense and this host.

    Raises UsageError, NotFoundError or CapacityError.
    """
    if guest is not None and guest != "tiny":
        raise UsageError(f"There is no built-in guest {guest!r}: use 'tiny', or give a kernel.")
    if guest is not None and kernel is not None:
        raise UsageError(f"The guest {guest!r} brings its own kernel: leave one of the two out.")
    if kernel is None and guest is None and (initrd is not None or append is not None):
        raise UsageError("An initrd or a command line needs a kernel: give one.")
    if (guest is not None or kernel is not None) and firmware not in (None, "none"):
        raise UsageError("A kernel is started without firmware: leave one of the two out.")
    if append is not None and not isinstance(append, str):
        raise UsageError(f"The kernel command line is given as {type(append).__name__}: give a string.")
    several = (
        ("disks", disks),
        ("cdroms", cdroms),
        ("floppies", floppies),
        ("serials", serials),
        ("parallels", parallels),
        ("nets", nets),
        ("ports", ports),
        ("devices", devices),
    )
    for wish, given in several:
        if isinstance(given, str | bytes | os.PathLike):
            raise UsageError(f"Several {wish} can be given: write {wish}=[{given!r}] for one.")
    if len(disks) > MAX_DISKS:
        raise UsageError(f"A machine has at most {MAX_DISKS} disks, not {len(disks)}.")
    models = [device for device in devices if isinstance(device, Device)]
    for model in models:
        check_ranges(model)
    named = tuple(hardware.parse(device) for device in devices if not isinstance(device, Device))
    for one, other in combinations(named, 2):
        if one.model == other.model:
            raise UsageError(f"A machine has one {one.model} at most: leave the others out.")
    checked_disks = _disks(disks)
    checked_cdroms = tuple(_cdrom(cdrom) for cdrom in cdroms)
    buses = [*(disk.bus for disk in checked_disks), *(cdrom.bus for cdrom in checked_cdroms)]
    ide_places(
        sum(disk.bus == "ide" for disk in checked_disks), sum(cdrom.bus == "ide" for cdrom in checked_cdroms)
    )
    ahci_ports(buses.count("ahci"))
    scsi_targets(buses.count("scsi"))
    order = _boot(boot)
    boots = guest is None and kernel is None and bool(disks or cdroms or floppies or order[0] == "net")
    found = _firmware(firmware, boots=boots)
    if nvram is not None and (found is None or found.variables is None):
        raise UsageError(
            "Only firmware in flash keeps variables: give the file of them with firmware='ovmf'."
        )
    if (boot or boot_menu) and found is None:
        raise UsageError("Nothing but firmware looks for what to boot: give a firmware, or no order.")
    uuid = _random_uuid()
    network_cards, cards = _nets(nets, uuid, firmware=found is not None)
    if order[0] == "net" and not any(card.rom for card in cards):
        raise UsageError(
            "No network card could boot: give one a network (--net), and install the package ipxe-qemu."
        )
    return Spec(
        guest="tiny" if guest is not None else None,
        kernel=_image("kernel", kernel),
        initrd=_image("initrd", initrd),
        append=append,
        firmware=found,
        nvram=None if nvram is None else _nvram(Path(nvram)),
        boot=order,
        boot_menu=boot_menu,
        memory=_memory(memory),
        cpus=_cpus(cpus),
        cpu=_cpu(cpu),
        disks=checked_disks,
        cdroms=checked_cdroms,
        floppies=_floppies(floppies),
        serials=_ports("COM", serials, far_end.SERIAL_KINDS, range(1, len(SERIAL_PORTS) + 1)),
        parallels=_ports("LPT", parallels, far_end.PARALLEL_KINDS, range(len(PARALLEL_PORTS) + 1)),
        nets=network_cards,
        cards=cards,
        vga=found is not None if vga is None else vga,
        virtio=_virtio(virtio),
        ports=_virtio_ports(ports),
        devices=tuple(models),
        named_devices=named,
        fw_cfg=_fw_cfg(fw_cfg or {}),
        uuid=uuid,
    )


def _random_uuid() -> bytes:
    """A UUID of version 4. RFC 9562, section 5.4."""
    number = int.from_bytes(os.urandom(16))
    number = number & ~(0xF << 76 | 3 << 62) | 4 << 76 | 2 << 62
    return number.to_bytes(16)


def _disks(wishes: Sequence[str | os.PathLike[str] | Disk]) -> tuple[Disk, ...]:
    disks = tuple(_disk(wish) for wish in wishes)
    for one, other in combinations(disks, 2):
        if not (one.readonly and other.readonly) and os.path.samefile(one.path, other.path):
            raise UsageError(
                f"The disks {one.path} and {other.path} are one file: leave one out, or make both read-only."
            )
    return disks


def _memory(wish: str | int) -> int:
    size = parse_size(wish)
    if size < MIN_RAM:
        raise UsageError(f"{format_size(size)} of memory are too little: give the machine at least 1 MiB.")
    if size % PAGE_SIZE:
        raise UsageError(f"{format_size(size)} of memory are no multiple of 4 KiB: choose a rounder size.")
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > host:
        raise CapacityError(
            f"{format_size(size)} of memory are more than this host has ({host >> 20} MiB): ask for less."
        )
    return size


def _cpus(wish: int) -> int:
    if isinstance(wish, bool) or not isinstance(wish, int) or not 1 <= wish <= MAX_CPUS:
        raise UsageError(f"A machine has 1 to {MAX_CPUS} vCPUs, not {wish!r}.")
    return wish


def _cpu(wish: str) -> str:
    if wish not in CPU_MODELS:
        raise UsageError(f"There is no processor model {wish!r}: use {', '.join(CPU_MODELS)}.")
    return wish


def _virtio(wish: str) -> hardware.VirtioInterfaces:
    found = next((interfaces for interfaces in hardware.VIRTIO_INTERFACES if interfaces == wish), None)
    if found is None:
        raise UsageError(f"Virtio devices cannot be {wish!r}: use {', '.join(hardware.VIRTIO_INTERFACES)}.")
    return found


def _virtio_ports(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        plain = isinstance(name, str) and name.isascii() and name.isprintable()
        if not plain or not 1 <= len(name) <= MAX_PORT_NAME or name[0] == "." or set(name) & {"/", " "}:
            raise UsageError(
                f"{name!r} is no name of a port: use up to {MAX_PORT_NAME} letters, digits, dots and the "
                "like, for instance org.qemu.guest_agent.0."
            )
    if len(set(names)) < len(names):
        raise UsageError("Two ports have one name: choose others.")
    if len(names) > MAX_PORTS:
        raise UsageError(f"A machine has at most {MAX_PORTS} ports, not {len(names)}.")
    return tuple(names)


def _fw_cfg(files: Mapping[str, bytes]) -> dict[str, bytes]:
    if len(files) > MAX_FW_CFG_FILES:
        raise UsageError(f"fw_cfg takes at most {MAX_FW_CFG_FILES} files, not {len(files)}.")
    for name, data in files.items():
        rest = name.removeprefix(USER_PREFIX)
        if rest in ("", name) or len(name) > MAX_NAME or not (name.isascii() and name.isprintable()):
            raise UsageError(
                f"{name[:80]!r} is no name of a file in fw_cfg: use {USER_PREFIX} and more printable ASCII, "
                f"at most {MAX_NAME} characters in all."
            )
        if not isinstance(data, bytes):
            raise UsageError(f"The fw_cfg file {name} is given as {type(data).__name__}: give bytes.")
        if len(data) > MAX_SIZE:
            raise UsageError(f"The fw_cfg file {name} has {format_size(len(data))}: give less than 4 GiB.")
    return dict(files)


def _firmware(wish: str | os.PathLike[str] | None, *, boots: bool) -> rom.Firmware | None:
    """The firmware's files. `boots`: without a wish there is something for it to boot from."""
    if wish is None:
        wish = "seabios" if boots else "none"
    if wish == "none":
        return None
    name = os.fspath(wish)
    found = rom.find(name)
    if "/" not in name and not found.code.exists():
        raise NotFoundError(
            f"There is no firmware {name!r}: use {', '.join(rom.NAMED)}, none or the file of one."
        )
    _check_file("firmware", found.code, writable=False)
    return found


def _boot(wish: str | Sequence[str]) -> tuple[BootKind, ...]:
    """The order of kinds of devices; those that are not named come last."""
    words = [word for word in wish.split(",") if word] if isinstance(wish, str) else list(wish)
    kinds = []
    for word in words:
        kind = next((kind for kind in BOOT_ORDER if kind == word), None)
        if kind is None or kind in kinds:
            raise UsageError(f"{word!r} is nothing to boot from, or said twice: use {', '.join(BOOT_ORDER)}.")
        kinds.append(kind)
    return (*kinds, *(kind for kind in BOOT_ORDER if kind not in kinds))


def _nets(
    wish: Sequence[str | Net] | None, uuid: bytes, *, firmware: bool
) -> tuple[tuple[Net, ...], tuple[Card, ...]]:
    wishes = [Net()] if wish is None else [] if list(wish) == ["none"] else wish
    if "none" in wishes:
        raise UsageError("No network card is asked for, and one as well: leave none out.")
    found = tuple(net if isinstance(net, Net) else parse_net(net) for net in wishes)
    check_nets(found)
    cards = cards_of(found, uuid, firmware=firmware)
    for card in cards:
        if card.rom is not None:
            _check_file("expansion ROM", card.rom, writable=False)
    return found, cards


def _nvram(path: Path) -> Path:
    if path.exists() or path.is_symlink():
        _check_file("file of variables", path, writable=True)
    elif not path.parent.is_dir():
        raise NotFoundError(
            f"The directory {path.parent}, for the file of variables, does not exist: make it."
        )
    return path


def _cdrom(wish: str | os.PathLike[str] | Cdrom | None) -> Cdrom:
    cdrom = wish if isinstance(wish, Cdrom) else Cdrom(None if wish is None else Path(wish))
    if cdrom.path is not None:
        _check_file("CD-ROM image", cdrom.path, writable=False, block_device=True)
    return cdrom


def _floppies(wishes: Sequence[str | os.PathLike[str] | Floppy | None]) -> tuple[Floppy | None, ...]:
    if len(wishes) > MAX_FLOPPIES:
        raise UsageError(f"A machine has at most {MAX_FLOPPIES} floppy drives, not {len(wishes)}.")
    floppies = []
    for wish in wishes:
        floppy = wish if wish is None or isinstance(wish, Floppy) else Floppy(Path(wish))
        if floppy is not None:
            _check_file("floppy image", floppy.path, writable=not floppy.readonly, block_device=True)
        floppies.append(floppy)
    return tuple(floppies)


def _ports(
    name: str, wishes: Sequence[int | str | None], kinds: Sequence[str], number: range
) -> tuple[far_end.Wish, ...]:
    if len(wishes) not in number:
        raise UsageError(
            f"A machine has {number[0]} to {number[-1]} ports {name}1, {name}2 and so on, not {len(wishes)}."
        )
    return tuple(far_end.parse(f"{name}{index + 1}", wish, kinds) for index, wish in enumerate(wishes))


def _image(role: str, wish: str | os.PathLike[str] | bytes | None) -> Path | bytes | None:
    if wish is None or isinstance(wish, bytes):
        return wish
    path = Path(wish)
    _check_file(role, path, writable=False)
    return path


def _disk(wish: str | os.PathLike[str] | Disk) -> Disk:
    disk = wish if isinstance(wish, Disk) else Disk(Path(wish))
    _check_file("disk", disk.path, writable=not disk.readonly, block_device=True)
    return disk


def _check_file(role: str, path: Path, *, writable: bool, block_device: bool = False) -> None:
    if not path.name and not path.is_absolute():
        # Path("") is the current directory.
        raise UsageError(f"The {role}'s name is empty: name a file.")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise NotFoundError(f"The {role} {path} does not exist.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"The {role} {path} cannot be looked at: {reason}.") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"The {role} {path} is a directory: name a file.")
    if not (stat.S_ISREG(mode) or (block_device and stat.S_ISBLK(mode))):
        kinds = "a regular file or a block device" if block_device else "a regular file"
        raise UsageError(f"The {role} {path} is not {kinds}: name one that is.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"The {role} {path} may not be read by this user: change its permissions.")
    if writable and not os.access(path, os.W_OK):
        raise UsageError(f"The {role} {path} may not be written by this user: attach it read-only.")
