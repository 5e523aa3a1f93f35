"""`python -m bench.judges single-step DIR`: run SingleStepTests' recordings of a real 80286.

Each file has tests of one opcode: registers and memory before the instruction, and after it and a HLT. A test
is run several times, so that both the interpreter and the translator execute it. See docs/judges.md.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gzip
import itertools
import json
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import wirt

RUNS: Final = 7
"""Runs of a test: the recompiler interprets code it comes to for the first, then translates it."""
TIME_LIMIT: Final = 2.0
"""Seconds until HLT."""
SHOWN: Final = 3
"""Tests of a file, and differences of a test, that are told."""

_NAMES: Final = ("ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags")
_SEGMENTS: Final = ("cs", "ss", "ds", "es")
_FLAGS: Final = 0x0FD5
"""The flags of the 8086; the processors clear or keep the others as they like in real mode."""

_WINDOW: Final = range(0xA0000, 0xC0000)
"""Where a PC has no RAM, and the tests want some."""


class Unusable(Exception):
    """There is nothing to run. The message says why."""


@dataclass(frozen=True, slots=True)
class State:
    """Registers by name, and bytes of memory by address."""

    registers: dict[str, int]
    memory: dict[int, int]


@dataclass(frozen=True, slots=True)
class Recording:
    """One test. `after` holds what changed; `undefined` the bits of registers that mean nothing then.

    `exception` is the vector of the exception it raises, and the address where that puts the flags.
    """

    index: int
    name: str
    code: bytes
    before: State
    after: State
    undefined: dict[str, int]
    exception: tuple[int, int] | None
    hash: str


def _chunks(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of the MOO format: four letters, a length, so many bytes."""
    while begin + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, begin)
        yield kind, begin + 8, begin + 8 + size
        begin += 8 + size


def _registers(data: bytes, begin: int) -> dict[str, int]:
    (present,) = struct.unpack_from("<H", data, begin)
    kept = [name for bit, name in enumerate(_NAMES) if present >> bit & 1]
    return dict(zip(kept, struct.unpack_from(f"<{len(kept)}H", data, begin + 2), strict=True))


def _state(data: bytes, begin: int, end: int) -> tuple[State, dict[str, int]]:
    state, defined = State({}, {}), {}
    for kind, at, _ in _chunks(data, begin, end):
        match kind:
            case b"REGS":
                state.registers.update(_registers(data, at))
            case b"RMSK":
                defined.update(_registers(data, at))
            case b"RAM ":
                (count,) = struct.unpack_from("<I", data, at)
                for index in range(count):
                    address, value = struct.unpack_from("<IB", data, at + 4 + 5 * index)
                    state.memory[address] = value
    return state, defined


def _moo_test(data: bytes, begin: int, end: int, defined: Mapping[str, int]) -> Recording:
    values: dict[str, Any] = {"exception": None, "hash": ""}
    defined = dict(defined)
    for kind, at, to in _chunks(data, begin + 4, end):
        match kind:
            case b"NAME":
                values["name"] = data[at + 4 : to].decode(errors="replace")
            case b"BYTS":
                values["code"] = data[at + 4 : to]
            case b"INIT":
                values["before"], _ = _state(data, at, to)
            case b"FINA":
                values["after"], own = _state(data, at, to)
                defined.update(own)
            case b"EXCP":
                values["exception"] = struct.unpack_from("<BI", data, at)
            case b"HASH":
                values["hash"] = data[at:to].hex()
    undefined = {name: ~mask for name, mask in defined.items()}
    (index,) = struct.unpack_from("<I", data, begin)
    return Recording(index=index, undefined=undefined, **values)


def moo(data: bytes) -> Iterator[Recording]:
    """The tests of a file in the MOO format: https://github.com/dbalsom/moo."""
    defined: dict[str, int] = {}
    for kind, begin, end in _chunks(data, 0, len(data)):
        match kind:
            case b"RMSK":
                defined = _registers(data, begin)
            case b"TEST":
                yield _moo_test(data, begin, end, defined)


def tests(path: Path) -> Iterator[Recording]:
    """The tests of a file, compressed or not. Raises Unusable."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        yield from moo(data)
    except (OSError, EOFError, struct.error, KeyError, TypeError) as error:
        raise Unusable(f"{path} is no file of recordings: {error}") from error


class Window(wirt.Device):
    """RAM where a PC has its VGA window."""

    mmio = _WINDOW
    sizes = (1, 1)

    def __init__(self) -> None:
        self.bytes = bytearray(len(_WINDOW))

    def read(self, offset: int, size: int) -> int:
        return self.bytes[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        self.bytes[offset] = value

    def reset(self) -> None:
        pass


class Machine:
    """A machine whose vCPU rests in HLT between tests."""

    def __init__(self, accelerator: str) -> None:
        self._accelerator = accelerator
        self._start()

    def _start(self) -> None:
        self._window = Window()
        self._vm = wirt.VM(memory="64M", accel=self._accelerator, devices=[self._window])
        self._cpu = self._vm.vcpus[0]
        self._vm.memory.write(0x500, b"\xf4")
        self._cpu.set_registers(rip=0x500, cs=_segment("cs", 0), halted=False)
        self._vm.start()
        self.ports = [range(first, last + 1) for bus, first, last, _ in self._vm.bus_map() if bus == "port"]
        """Where devices answer."""
        self.settle()

    def close(self) -> None:
        self._vm.close()

    def restart(self) -> None:
        """After a test that went astray: a new machine."""
        self.close()
        self._start()

    def settle(self) -> wirt.Registers | None:
        """The registers at the next HLT; None: none came in time."""
        end = time.monotonic() + TIME_LIMIT
        while not (registers := self._cpu.registers).halted:
            if time.monotonic() > end:
                return None
        return registers

    def read(self, address: int, size: int) -> bytes:
        if address in _WINDOW:
            return bytes(self._window.bytes[address - _WINDOW.start :][:size])
        return self._vm.memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write what differs: code that is as it was stays translated."""
        if self.read(address, len(data)) == data:
            return
        if address in _WINDOW:
            begin = address - _WINDOW.start
            self._window.bytes[begin : begin + len(data)] = data
        else:
            self._vm.memory.write(address, data)

    def run(self, memory: Sequence[tuple[int, bytes]], registers: Mapping[str, Any]) -> wirt.Registers | None:
        for address, data in memory:
            self.write(address, data)
        self._cpu.set_registers(**registers)
        return self.settle()


def _segment(name: str, selector: int) -> wirt.Segment:
    return wirt.Segment(selector, selector << 4, 0xFFFF, 0x9B if name == "cs" else 0x93)


_LONG: Final = {name: "rflags" if name == "flags" else f"r{name}" for name in _NAMES}


def initial_registers(state: State) -> dict[str, Any]:
    """The registers of a state as `set_registers` takes them."""
    values: dict[str, Any] = {"halted": False}
    for name, value in state.registers.items():
        if name in _SEGMENTS:
            values[name] = _segment(name, value)
        else:
            values[_LONG[name]] = value & _FLAGS | 2 if name == "flags" else value
    return values


_HANDLERS: Final = 0x500
_VECTORS: Final = {
    address: value
    for vector in range(256)
    for address, value in enumerate(struct.pack("<HH", _HANDLERS + vector, 0), 4 * vector)
}
"""Where the recording has no vector, each leads to a HLT of its own."""


def initial_memory(state: State) -> list[tuple[int, bytes]]:
    """The memory of a state, bytes beside each other in one piece."""
    pieces: list[tuple[int, bytearray]] = []
    handlers = dict.fromkeys(range(_HANDLERS, _HANDLERS + 256), 0xF4)
    for address, value in sorted({**_VECTORS, **handlers, **state.memory}.items()):
        if pieces and address == pieces[-1][0] + len(pieces[-1][1]) and address not in _EDGES:
            pieces[-1][1].append(value)
        else:
            pieces.append((address, bytearray((value,))))
    return [(address, bytes(data)) for address, data in pieces]


_EDGES: Final = (_WINDOW.start, _WINDOW.stop)


def _pushed_flags(test: Recording) -> int | None:
    """Where the exception of a test puts the flags. The recording has an even address, always."""
    if test.exception is None:
        return None
    after = {**test.before.registers, **test.after.registers}
    return (after["ss"] << 4) + (after["sp"] + 4 & 0xFFFF)


def differences(test: Recording, registers: wirt.Registers | None, machine: Machine) -> list[str]:
    """What is not as it was recorded; empty: all is."""
    if registers is None:
        return ["no HLT"]
    found = []
    for name, value in {**test.before.registers, **test.after.registers}.items():
        got = getattr(registers, name).selector if name in _SEGMENTS else getattr(registers, _LONG[name])
        mask = (_FLAGS if name == "flags" else 0xFFFF) & ~test.undefined.get(name, 0)
        if (got ^ value) & mask:
            found.append(f"{name} {got & mask:#x} instead of {value & mask:#x}")
    defined = _FLAGS & ~test.undefined.get("flags", 0)
    pushed = _pushed_flags(test)
    for address, value in {**test.before.memory, **test.after.memory}.items():
        got, mask = machine.read(address, 1)[0], 0xFF
        if pushed is not None and 0 <= address - pushed < 2:
            mask &= defined >> 8 * (address - pushed)
        if (got ^ value) & mask:
            found.append(f"[{address:#x}] {got & mask:#04x} instead of {value & mask:#04x}")
    return found


_PREFIXES: Final = frozenset((0x26, 0x2E, 0x36, 0x3E, 0xF0, 0xF2, 0xF3))
_LOCKABLE: Final = frozenset(
    (*(op for row in range(0, 0x38, 8) for op in (row, row + 1)), 0x80, 0x81, 0x82, 0x83, 0x86, 0x87)
)
"""Opcodes that LOCK goes with, if their operand is in memory; 0xF6, 0xF7, 0xFE and 0xFF depend on more."""
_LOCKABLE_GROUPS: Final = {0xF6: (2, 3), 0xF7: (2, 3), 0xFE: (0, 1), 0xFF: (0, 1)}


def prefixes(code: bytes) -> bytes:
    """The prefixes of an instruction; its opcode is behind them."""
    return bytes(itertools.takewhile(_PREFIXES.__contains__, code))


def unfit(test: Recording, ports: Sequence[range]) -> str | None:
    """Why a test makes no sense here; None: it does."""
    before = prefixes(test.code)
    op, modrm = test.code[len(before)], test.code[len(before) + 1]
    if 0xF0 in before:
        in_memory = modrm < 0xC0
        group = modrm >> 3 & 7
        taken = op in _LOCKABLE and not (op in range(0x80, 0x84) and group == 7)
        if not in_memory or not (taken or group in _LOCKABLE_GROUPS.get(op, ())):
            return "LOCK where it is undefined since the 80386"
    if op & 0xF4 == 0xE4 or op & 0xFC == 0x6C:
        port = modrm if op & 0xFC == 0xE4 else test.before.registers["dx"]
        if any(port + offset in devices for devices in ports for offset in (0, 1)):
            return "I/O at a port of the board"
    return None


def undefined_flags(directory: Path) -> dict[str, int]:
    """The flags that each opcode leaves undefined, as the recordings' own table tells."""
    try:
        opcodes = json.loads((directory / "metadata.json").read_text())["opcodes"]
    except (OSError, ValueError, KeyError):
        return {}
    masks = {}
    for name, entry in opcodes.items():
        for key, form in [
            (name, entry),
            *((f"{name}.{reg}", sub) for reg, sub in entry.get("reg", {}).items()),
        ]:
            if "flags-mask" in form:
                masks[key] = ~form["flags-mask"] & _FLAGS
    return masks


_STRINGS: Final = frozenset((0x6C, 0x6D, 0x6E, 0x6F, *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
LONGEST: Final = 10
"""Bytes of the longest instruction of an 80286, for the recordings are of one."""


def explain(test: Recording, registers: wirt.Registers | None) -> str | None:
    """Why a processor of today does not do what an 80286 did; None: it should."""
    at = len(prefixes(test.code))
    op, modrm = test.code[at], test.code[at + 1]
    vector = test.exception[0] if test.exception else None
    if vector == 13 and len(test.code) - 1 > LONGEST:
        return "instructions of more than 10 bytes"
    if vector == 6 and op in (0x8C, 0x8E) and modrm >> 3 & 7 in (4, 5):
        return "FS and GS"
    if vector == 13 and registers is not None and registers.rip == _HANDLERS + 12 + 1:
        return "#SS, not #GP, for the stack's limit"
    if vector == 13 and op in _STRINGS:
        return "string instructions that fault leave their registers"
    if op in (0xC0, 0xC1) and modrm >> 3 & 7 in (2, 3):
        return "OF behind a rotation by more than 1"
    return None


@dataclass(slots=True)
class Verdict:
    """What became of the tests of a file, as counts, and the first of those that failed in words."""

    passed: int = 0
    skipped: int = 0
    explained: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: int = 0
    shown: list[str] = field(default_factory=list)


def judge(machine: Machine, path: Path, undefined: int, runs: int, limit: int | None) -> Verdict:
    """Run the first `limit` tests of a file, each so many times. Raises Unusable."""
    verdict = Verdict()
    for test in itertools.islice(tests(path), limit):
        if unfit(test, machine.ports):
            verdict.skipped += 1
            continue
        test.undefined["flags"] = test.undefined.get("flags", 0) | undefined
        memory, before = initial_memory(test.before), initial_registers(test.before)
        run, found, registers = 0, list[str](), None
        while run < runs and not found:
            registers = machine.run(memory, before)
            found = differences(test, registers, machine)
            run += 1
        if not found:
            verdict.passed += 1
            continue
        if reason := explain(test, registers):
            verdict.explained[reason] += 1
        else:
            verdict.failed += 1
            if len(verdict.shown) < SHOWN:
                words = f"{test.name} ({test.code.hex()}), run {run}: " + "; ".join(found[:SHOWN])
                verdict.shown.append(f"#{test.index} {words}")
        if registers is None:
            machine.restart()
    return verdict


def main(arguments: Sequence[str]) -> int:
    """Return 0 if no test failed for no reason, 1 if one did, 2 for wrong usage, 3 if there are no tests."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.judges single-step", description=__doc__.split("\n\n")[0].split(": ")[1]
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="*.MOO or *.MOO.gz, and metadata.json")
    parser.add_argument("--only", metavar="NAME,...", help="only these files, as 0F01 or F6.7")
    parser.add_argument("--tests", type=int, metavar="N", help="the first N tests of each file")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"runs of each ({RUNS})")
    parser.add_argument("--accel", default="recompiler", choices=("recompiler", "kvm"))
    options = parser.parse_args(arguments)
    if options.runs < 1 or (options.tests is not None and options.tests < 1):
        parser.error("--runs and --tests have to be above 0")
    files = {path.name.split(".MOO")[0]: path for path in sorted(options.directory.glob("*.MOO*"))}
    if not files:
        print(f"judges: There are no recordings (*.MOO.gz) in {options.directory}.", file=sys.stderr)
        return 3
    if options.only:
        wanted = options.only.split(",")
        if unknown := set(wanted) - files.keys():
            parser.error(f"there is no file of {min(unknown)!r}")
        files = {name: files[name] for name in wanted}
    undefined = undefined_flags(options.directory)
    total = Verdict()
    with contextlib.closing(Machine(options.accel)) as machine:
        for name, path in files.items():
            try:
                verdict = judge(machine, path, undefined.get(name, 0), options.runs, options.tests)
            except Unusable as error:
                print(f"judges: {error}", file=sys.stderr)
                return 3
            total.passed += verdict.passed
            total.skipped += verdict.skipped
            total.explained += verdict.explained
            total.failed += verdict.failed
            if verdict.failed:
                print(f"{name}: {verdict.failed} failed", *verdict.shown, sep="\n  ", flush=True)
    for reason, count in total.explained.most_common():
        print(f"{count:8} differ: {reason}")
    print(f"passed: {total.passed}, differ: {total.explained.total()}, failed: {total.failed}", end="")
    print(f", not run: {total.skipped}")
    return 1 if total.failed else 0
