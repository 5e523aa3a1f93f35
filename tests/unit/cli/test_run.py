"""`wirt run`: what its options ask of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fake_vm import CRASHED, FakeVM
from wirt.cli import run
from wirt.cli.entry import main
from wirt.errors import NotFoundError
from wirt.vm import VM, Cdrom, CompletedExec, Disk, Floppy, Instruments


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeVM]:
    """The machines that were made; each powers itself off."""
    machines: list[FakeVM] = []

    def make(*arguments: Any, **asked: Any) -> FakeVM:
        machines.append(FakeVM(*arguments, on_start=FakeVM.end, **asked))
        return machines[-1]

    monkeypatch.setattr(run, "VM", make)
    return machines


def asked(made: list[FakeVM], *words: str) -> dict[str, Any]:
    """What `wirt run` asks of a machine when given `words`."""
    assert main(["run", "--serial", "none", *words]) == 0
    assert made[-1].closed
    return made[-1].asked


def test_without_options_it_is_tiny(made: list[FakeVM]) -> None:
    given = asked(made)
    assert callable(given.pop("log"))
    assert given == {
        "guest": "tiny",
        "kernel": None,
        "initrd": None,
        "append": None,
        "memory": "512M",
        "cpus": 1,
        "cpu": "host",
        "disks": [],
        "cdroms": [],
        "nets": None,
        "firmware": None,
        "nvram": None,
        "boot": "",
        "boot_menu": False,
        "vga": None,
        "display": None,
        "virtio": "transitional",
        "accel": "auto",
        "floppies": [],
        "serials": ["none"],
        "parallels": [],
        "devices": [],
        "on_io_error": "report",
        "reboot": True,
        "instruments": Instruments(),
    }


def test_options_reach_the_machine(made: list[FakeVM]) -> None:
    words = "--kernel k --initrd i --append a -c 2 -m 2G -d x --disk y,ro --accel kvm --no-reboot"
    given = asked(made, *words.split(), "--device", "isa-debug-exit", "--cpu", "x86-64-v2")
    assert (given["guest"], given["kernel"], given["initrd"], given["append"]) == (None, "k", "i", "a")
    assert given["cpu"] == "x86-64-v2"
    assert asked(made, "--dump-block", "0x1F", "--perf-map")["instruments"] == Instruments(0x1F, [])
    assert (given["cpus"], given["memory"], given["accel"], given["reboot"]) == (2, "2G", "kvm", False)
    assert given["disks"] == [Disk(Path("x")), Disk(Path("y"), readonly=True)]
    assert given["devices"] == ["isa-debug-exit"]
    words = "--disk x,bus=ide --cdrom c --cdrom none --firmware ovmf --nvram v --boot cdrom --boot-menu"
    given = asked(made, *words.split(), "--vga", "none", "--display", "vnc:5901")
    assert given["disks"] == [Disk(Path("x"), bus="ide")]
    assert given["cdroms"] == [Cdrom(Path("c")), Cdrom(None)]
    assert (given["firmware"], given["nvram"]) == ("ovmf", "v")
    assert (given["boot"], given["boot_menu"]) == ("cdrom", True)
    assert (given["vga"], given["display"]) == (False, "vnc:5901")


def test_drives_hang_on_the_bus_that_is_named(made: list[FakeVM], capsys: pytest.CaptureFixture[str]) -> None:
    words = "--disk x,bus=scsi --cdrom c,bus=scsi --cdrom none,bus=ide --cdrom a,b"
    given = asked(made, *words.split())
    assert given["disks"] == [Disk(Path("x"), bus="scsi")]
    assert given["cdroms"] == [Cdrom(Path("c"), "scsi"), Cdrom(None), Cdrom(Path("a,b"))]
    given = asked(made, *["--disk", "x,ro,bus=ahci", "--cdrom", "c,bus=ahci"])
    assert (given["disks"], given["cdroms"]) == ([Disk(Path("x"), True, "ahci")], [Cdrom(Path("c"), "ahci")])
    for words in ("--disk x,bus=usb", "--cdrom x,bus=virtio", "--cdrom ,bus=scsi"):
        assert main(["run", *words.split()]) == 2
    assert "hangs on no 'virtio': use ide or ahci or scsi" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "disk"), [("a,b", Disk(Path("a,b"))), ("a,b,ro", Disk(Path("a,b"), True))])
def test_a_disks_name_may_have_commas(made: list[FakeVM], path: str, disk: Disk) -> None:
    assert asked(made, "--disk", path)["disks"] == [disk]


def test_the_accelerator_is_told_unless_quiet(made: list[FakeVM], capsys: pytest.CaptureFixture[str]) -> None:
    asked(made)
    assert capsys.readouterr().err == "wirt: accelerator recompiler: no /dev/kvm\n"
    asked(made, "-q")
    assert capsys.readouterr().err == ""


def test_counters_are_shown_on_request(made: list[FakeVM], capsys: pytest.CaptureFixture[str]) -> None:
    asked(made, "-q", "--accel-stats")
    assert capsys.readouterr().err == "vcpu0: exits 3\n"


def test_a_crash_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "VM", lambda *_, **__: FakeVM(on_start=lambda vm: vm.end(CRASHED)))
    assert main(["run", "-q", "--serial", "none"]) == 1
    assert capsys.readouterr().err == "wirt: The guest crashed: triple fault on vCPU 0.\n"


def test_serial_and_parallel_ports_reach_the_machine(
    made: list[FakeVM], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-q"]) == 0
    assert made[-1].asked["serials"] == [1]
    words = "-q --serial stdio --serial tcp:5 --parallel file:p --floppy f,ro"
    given = asked(made, *words.split())
    assert (given["serials"], given["parallels"]) == (["none", 1, "tcp:5"], ["file:p"])
    assert given["floppies"] == [Floppy(Path("f"), readonly=True)]
    assert main(["run", "-q", "--serial", "stdio", "--serial", "stdio"]) == 2
    assert "One serial port can be on standard input" in capfd.readouterr().err


def test_places_are_told_even_when_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = FakeVM(on_start=FakeVM.end)
    vm.places["COM1"] = "/dev/pts/7"
    monkeypatch.setattr(run, "VM", lambda *_, **__: vm)
    assert main(["run", "-q", "--serial", "pty"]) == 0
    assert capsys.readouterr().err == "wirt: COM1 is at /dev/pts/7\n"


def test_exec_prints_the_output_and_exits_with_the_status(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def run_in_tiny(command: str, **asked: Any) -> CompletedExec:
        assert (command, asked["cpus"], asked["timeout"]) == ("exit 7", 2, 5.0)
        vm = FakeVM()
        asked["on_start"](vm)
        asked["on_output"](b"\xff\x00")
        asked["on_output"](b"more\n")
        asked["on_end"](vm)
        return CompletedExec(command, "", 7)

    monkeypatch.setattr(run, "run", run_in_tiny)
    assert main(["run", "--exec", "exit 7", "-c", "2", "--timeout", "5", "--accel-stats"]) == 7
    printed = capfdbinary.readouterr()
    assert printed.out == b"\xff\x00more\n"
    assert printed.err == b"wirt: accelerator recompiler: no /dev/kvm\nvcpu0: exits 3\n"


def test_a_missing_file_is_not_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> VM:
        raise NotFoundError("The kernel k does not exist.")

    monkeypatch.setattr(run, "VM", refuse)
    assert main(["run", "--kernel", "k"]) == 3
    assert capsys.readouterr().err == "wirt: The kernel k does not exist.\n"
