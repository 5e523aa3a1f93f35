"""The devices that are asked for by name: what each is, its options, and how it gets into a machine.

`wirt devices` prints this table; `--device NAME,OPTION=VALUE` and `VM(devices=[...])` are checked against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

from wirt import _core
from wirt.errors import UsageError

VirtioInterfaces = Literal["transitional", "modern", "legacy"]
"""Those of virtio devices: both the modern and the legacy one, or one alone."""
VIRTIO_INTERFACES: Final[tuple[VirtioInterfaces, ...]] = ("transitional", "modern", "legacy")


class Option(NamedTuple):
    """An option of a device. `values` are the words it can be, or in capitals what it is to be: FILE;
    `default` is what it is when it is not given, empty for nothing.
    """

    name: str
    values: tuple[str, ...]
    default: str
    help: str


class Model(NamedTuple):
    """A kind of device. `given` says how a machine comes to have one; `add` puts one that is asked for by
    name in, and is None for all others. `pci`: it takes a PCI slot.
    """

    name: str
    summary: str
    given: str
    options: tuple[Option, ...] = ()
    add: Callable[[Place, Mapping[str, str]], None] | None = None
    pci: bool = False


class NamedDevice(NamedTuple):
    """A device that a user asked for: a model's name, and a value for each of its options."""

    model: str
    options: tuple[tuple[str, str], ...] = ()


class Place(NamedTuple):
    """What a device is put into. `slot` is its PCI slot, if it has one; `told` is called, from any thread,
    with the model's name and a word of what happened.
    """

    machine: _core.Machine
    slot: int | None
    told: Callable[[str, str], None]
    balloon: _core.Balloon
    """The host's end of a balloon."""
    memory_size: int
    """Bytes of the guest's memory."""
    watchdog_expired: bool
    """Whether a watchdog's expiry began this run of the machine."""


def _add_watchdog(place: Place, options: Mapping[str, str]) -> None:
    assert place.slot is not None

    def told(event: str) -> None:
        place.told("i6300esb", event)

    place.machine.add_watchdog(place.slot, options["action"], place.watchdog_expired, told)


def _add_pvpanic(place: Place, options: Mapping[str, str]) -> None:
    def told(event: str) -> None:
        place.told("pvpanic", event)

    place.machine.add_pvpanic(told)


def _add_usb_tablet(place: Place, options: Mapping[str, str]) -> None:
    place.machine.add_usb_tablet()


def _add_usb_keyboard(place: Place, options: Mapping[str, str]) -> None:
    place.machine.add_usb_keyboard()


def _add_balloon(place: Place, options: Mapping[str, str]) -> None:
    assert place.slot is not None
    oom, reporting = options["deflate-on-oom"] == "on", options["free-page-reporting"] == "on"
    place.machine.add_balloon(place.slot, place.balloon, place.memory_size, oom, reporting)


_ALWAYS: Final = "is always there"
_BY_NAME: Final = "comes by --device"
_ON_OFF: Final = ("on", "off")
_READONLY: Final = Option("ro", (), "", "the guest cannot write")


_NET: Final = (
    Option("mac", ("ADDRESS",), "", "six bytes, by default made from the machine's UUID"),
    Option("rom", ("none", "FILE"), "", "for booting, by default iPXE's where firmware boots"),
    Option("capture", ("FILE",), "", "where frames are written (pcap)"),
    Option("snaplen", ("BYTES",), "262144", "how much of each frame is written"),
)


def _action(values: tuple[str, ...], help: str) -> tuple[Option, ...]:
    return (Option("action", values, values[0], help),)


MODELS: Final = {
    model.name: model
    for model in (
        Model("i440fx", "host bridge, with PAM: ROM or RAM below 1 MiB", _ALWAYS),
        Model("piix", "ISA bridge with interrupt routing, power management (ACPI), reset control", _ALWAYS),
        Model("interrupts", "8259A PICs, I/O APIC, local APICs", _ALWAYS),
        Model("timers", "8254 timer, HPET, MC146818 clock with CMOS memory, ACPI timer", _ALWAYS),
        Model("i8042", "keyboard controller with PS/2 keyboard and mouse", _ALWAYS),
        Model("fw_cfg", "QEMU's interface for firmware", _ALWAYS),
        Model(
            "serial",
            "16550A serial ports, COM1 to COM4",
            "COM1 is always there, others come by --serial, which says where each goes",
        ),
        Model("parallel", "parallel ports with a printer, LPT1 and LPT2", "come by --parallel file:FILE"),
        Model("dma", "8237A DMA controllers of the ISA bus", _ALWAYS),
        Model("virtio-rng", "source of randomness", _ALWAYS),
        Model("virtio-console", "console, hvc0 in Linux", _ALWAYS),
        Model(
            "virtio-balloon",
            "takes memory that the guest does not need and gives it back to the host",
            _BY_NAME,
            (
                Option("deflate-on-oom", _ON_OFF, "on", "the guest may take it back before it runs out"),
                Option("free-page-reporting", _ON_OFF, "on", "the guest may report what is free by itself"),
            ),
            _add_balloon,
            pci=True,
        ),
        Model("virtio-net", "network card", "is there once; comes by --net NETWORK others, or none", _NET),
        Model("e1000", "Intel 82540EM network card", "comes by --net NETWORK,model=e1000", _NET),
        Model(
            "virtio-blk",
            "disk",
            "comes by --disk FILE",
            (_READONLY,),
        ),
        Model(
            "ide-disk",
            "ATA disk on the PIIX3's IDE function (bus master DMA)",
            "comes by --disk FILE,bus=ide",
            (_READONLY,),
        ),
        Model(
            "virtio-scsi",
            "SCSI host with up to 256 targets: disks, CD-ROM drives",
            "comes with a disk or CD-ROM drive on it",
        ),
        Model("scsi-disk", "disk on virtio-scsi", "comes by --disk FILE,bus=scsi", (_READONLY,)),
        Model(
            "scsi-cdrom",
            "CD-ROM drive on virtio-scsi",
            "comes by --cdrom FILE,bus=scsi or --cdrom none,bus=scsi",
        ),
        Model(
            "ahci",
            "AHCI adapter (ICH9) with six ports: disks with NCQ, CD-ROM drives",
            "comes with a disk or CD-ROM drive on it",
        ),
        Model("ahci-disk", "ATA disk on the AHCI adapter", "comes by --disk FILE,bus=ahci", (_READONLY,)),
        Model(
            "ahci-cdrom",
            "ATAPI CD-ROM drive on the AHCI adapter",
            "comes by --cdrom FILE,bus=ahci or --cdrom none,bus=ahci",
        ),
        Model("ide-cdrom", "ATAPI CD-ROM drive on the IDE function", "comes by --cdrom FILE or --cdrom none"),
        Model(
            "floppy",
            "82078 floppy controller with one or two drives, 160 KiB to 2.88 MB",
            "by --floppy FILE or --floppy none",
            (_READONLY,),
        ),
        Model(
            "vga",
            "VGA card with Bochs VBE (DISPI), 16 MiB",
            "comes with firmware, --display or --vga std, not with --vga none",
        ),
        Model(
            "flash",
            "flash memory that holds firmware and its variables",
            "comes by --firmware ovmf",
            (Option("--nvram", ("FILE",), "", "where the variables are kept"),),
        ),
        Model(
            "isa-debug-exit",
            "ends the machine: writing V to port 0xf4 makes the exit status 2V+1",
            _BY_NAME,
            add=lambda place, options: place.machine.add_debug_exit(),
        ),
        Model(
            "pc-testdev",
            "interrupt lines, ports and memory for tests of processors",
            _BY_NAME,
            add=lambda place, options: place.machine.add_pc_testdev(),
        ),
        Model(
            "pvpanic",
            "by which a guest's kernel tells that it has panicked, at port 0x505",
            _BY_NAME,
            _action(("poweroff", "pause", "none"), "what is done when the guest panics"),
            _add_pvpanic,
        ),
        Model(
            "uhci",
            "USB controller of the PIIX3 with two ports of full and low speed",
            "comes with a USB device",
        ),
        Model(
            "usb-tablet",
            "pointer that goes where a viewer's mouse is, with 3 buttons and a wheel",
            _BY_NAME,
            add=_add_usb_tablet,
        ),
        Model(
            "usb-kbd",
            "keyboard, which takes the PS/2 keyboard's place while the guest listens to it",
            _BY_NAME,
            add=_add_usb_keyboard,
        ),
        Model(
            "i6300esb",
            "Intel's watchdog timer",
            _BY_NAME,
            _action(
                ("reset", "poweroff", "pause", "none"), "what is done when the guest has not come by in time"
            ),
            _add_watchdog,
            pci=True,
        ),
    )
}
"""By name, in the order in which they are listed."""

BY_NAME: Final = {name: model for name, model in MODELS.items() if model.add is not None}
"""Those that --device takes."""


def parse(text: str) -> NamedDevice:
    """Read NAME[,OPTION=VALUE]... Raises UsageError for what the table does not have."""
    if not isinstance(text, str):
        raise UsageError(f"A device is given as {type(text).__name__}: use a wirt.Device or a name.")
    name, *words = text.split(",")
    model = BY_NAME.get(name)
    if model is None:
        hint = f"it {MODELS[name].given}" if name in MODELS else f"use {', '.join(BY_NAME)}"
        raise UsageError(
            f"There is no device {name!r} to ask for by name: {hint} ('wirt devices' tells more)."
        )
    options = {option.name: option.default for option in model.options}
    for word in words:
        key, equals, value = word.partition("=")
        option = next((option for option in model.options if option.name == key), None)
        if option is None or not equals:
            known = ", ".join(f"{option.name}=" for option in model.options)
            raise UsageError(f"{word!r} is no option of the device {name}: it has {known or 'none'}.")
        if value not in option.values:
            raise UsageError(
                f"The device {name} cannot have {key}={value}: use {' or '.join(option.values)}."
            )
        options[key] = value
    return NamedDevice(name, tuple(options.items()))


def add(device: NamedDevice, place: Place) -> None:
    """Put a device into a machine. Raises CoreError."""
    method = BY_NAME[device.model].add
    assert method is not None
    method(place, dict(device.options))
