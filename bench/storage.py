"""Disks on each controller, and the serial console, in a Linux guest: Wirt and TCG on the same file."""

from __future__ import annotations

import gzip
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench import packages, peers
from bench.console import Stopped, started
from bench.report import Section
from wirt.machine import tiny
from wirt.machine.drives import DISK_BUSES
from wirt.machine.tiny import cpio, deb, modules

_APPEND = "console=ttyS0 quiet panic=-1 reboot=t"
_LIMIT = 120.0
_SIZE = 256 << 20
_CONTROLLERS = {
    "virtio": ("bus=virtio", ("-device", "virtio-blk-pci,drive=d")),
    "ide": ("bus=ide", ("-device", "ide-hd,drive=d,bus=ide.0")),
    "ahci": ("bus=ahci", ("-device", "ich9-ahci,id=ahci", "-device", "ide-hd,drive=d,bus=ahci.0")),
    "scsi": ("bus=scsi", ("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d")),
}
"""How each is asked for: of Wirt behind the file's name, of QEMU."""
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ata_piix", "ahci")
_MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]+/(kernel/.+\.ko(?:\.xz|\.zst)?)")
_DRIVER = {"virtio": "virtio_blk", "ide": "ata_piix", "ahci": "ahci", "scsi": "virtio_scsi"}
_ROWS = ("random-read", "random-write", "sequential-read", "sequential-write")


def measure(quick: bool) -> Section:
    """Boot the guest of the benchmark with one disk, under everybody by turns, controller by controller."""
    kernel, initrd, drivers = _image()
    section = Section(
        "storage",
        "A disk in a Linux guest (O_DIRECT, one request at a time, the file in the host's cache), in "
        "accesses of 4 KiB "
        "or MiB a second, and the serial console in KiB a second.",
        ("", "", "wirt", *(peer.name for peer in peers.qemus()), "wirt / the faster"),
        versions=peers.versions(),
        data={},
    )
    serial: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=packages.cache()) as directory:
        disk = Path(directory) / "disk.img"
        disk.touch()
        os.truncate(disk, _SIZE)
        for controller, (bus, options) in _CONTROLLERS.items():
            if controller not in DISK_BUSES:
                continue
            if _DRIVER[controller] not in drivers:
                section.notes.append(f"The guest's kernel has no driver for {controller}.")
                continue
            drive = ("-drive", f"file={disk},if=none,id=d,format=raw,cache=writeback", *options)
            commands = {"wirt": [*peers.wirt().command(kernel, initrd, _APPEND), "--disk", f"{disk},{bus}"]}
            commands |= {
                peer.name: [*peer.command(kernel, initrd, _APPEND), *drive] for peer in peers.qemus()
            }
            rates: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
            for _ in range(1 if quick else 3):
                for name, command in commands.items():
                    try:
                        for row, rate in _run(command):
                            target = serial if row == "serial" else rates[name]
                            target.setdefault(name if row == "serial" else row, []).append(rate)
                    except Stopped as error:
                        section.failures.append(f"{controller}, {name}: {error}")
            section.commands += commands.values()
            for row in _ROWS:
                _add(section, controller, row, {name: rates[name].get(row, []) for name in commands})
    _add(section, "serial", "output", serial)
    return section


def _add(section: Section, controller: str, row: str, rates: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(found) for name, found in rates.items() if found}
    others = [median for name, median in medians.items() if name != "wirt"]
    ratio = f"{medians['wirt'] / max(others):.1f}x" if others and "wirt" in medians else ""
    names = ("wirt", *(peer.name for peer in peers.qemus()))
    cells = [f"{medians[name]:.0f}" if name in medians else "" for name in names]
    section.rows.append((controller, row, *cells, ratio))
    section.data[f"{controller} {row}"] = medians


def _run(command: list[str]) -> list[tuple[str, float]]:
    """Return the rates that the guest tells of."""
    rates = []
    with started(command) as console:
        for line in console.lines(_LIMIT):
            match line.text.split():
                case ["@@D", row, rate]:
                    rates.append((row, float(rate)))
                case ["@@S", rate]:
                    rates.append(("serial", float(rate)))
                case ["@@END"]:
                    return rates
        raise Stopped(f"it ended before its end: {console.last_words()}")


def _image() -> tuple[Path, Path, set[str]]:
    """Make kernel and initrd: the program, and the drivers in the order of their loading; and say which."""
    linux = tiny.ensure()
    place = packages.cache() / "storage"
    place.mkdir(parents=True, exist_ok=True)
    program = place / "init"
    source = Path(__file__).parent / "guest" / "disk.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-static", "-s", "-o", program, source], check=True)
    package = next(linux.kernel.parent.glob("linux-image-*.deb"))
    files = deb.extract(package, lambda name: bool(_MODULE.fullmatch(name)), 1 << 30)
    found = {match[1]: data for name, data in files.items() if (match := _MODULE.fullmatch(name))}
    built_in = {modules.module_name(path) for path in found}
    drivers = modules.closure([name for name in _DRIVERS if name in built_in], found)
    entries = [cpio.directory(name) for name in ("dev", "modules")]
    entries += [cpio.character_device("dev/console", 5, 1), cpio.file("init", program.read_bytes(), 0o755)]
    entries += [
        cpio.file(f"modules/{index:02}-{modules.module_name(module.path)}", module.image, 0o644)
        for index, module in enumerate(drivers)
    ]
    initrd = place / "initrd.gz"
    initrd.write_bytes(gzip.compress(cpio.archive(entries), mtime=0))
    return linux.kernel, initrd, {modules.module_name(module.path) for module in drivers}
