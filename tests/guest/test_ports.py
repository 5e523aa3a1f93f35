"""Serial and parallel ports from end to end: a bare guest on one side, clients on the other."""

from __future__ import annotations

import os
import select
import socket
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import bare
import wirt
from wirt.vm import served

FLOOD = """
    mov ecx, {size}
    xor bl, bl
flood:
    mov dx, 0x3fd
full:
    in al, dx
    test al, 0x20
    jz full
    mov dx, 0x3f8
    mov al, bl
    out dx, al
    inc bl
    dec ecx
    jnz flood
    mov byte ptr [0x900], 1
hang:
    jmp hang
"""
SIZE = 3 << 20
"""More than the history and the buffers of a unix socket hold together."""


def machine(source: str, serials: Sequence[str | None], parallels: Sequence[str | None] = ()) -> wirt.VM:
    vm = wirt.VM(
        memory="2M", accel="recompiler", serials=serials, parallels=parallels, devices=["isa-debug-exit"]
    )
    vm.memory.write(bare.CODE, bare.assemble(source))
    vm.vcpus[0].set_registers(rip=bare.CODE, cs=bare.REAL_MODE_CODE, rsp=bare.CODE)
    return vm


def dial(place: str) -> socket.socket:
    kind, _, where = place.partition(":")
    client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(20)
    host, _, number = where.rpartition(":")
    client.connect(where if kind == "unix" else (host, int(number)))
    return client


def receive(client: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = client.recv(size - len(data))
        assert part, bytes(data[-100:])
        data += part
    return bytes(data)


def until(ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.01)
    return ready()


@pytest.mark.parametrize("wish", ["tcp:0", "tcp:127.0.0.1:0"])
def test_clients_come_one_after_the_other_and_miss_nothing(wish: str) -> None:
    with machine(bare.ECHO, [wish]) as vm:
        place = vm.places["COM1"]
        assert place.startswith("tcp:127.0.0.1:")
        vm.console.expect("ready")
        with dial(place) as first, dial(place) as second:
            assert receive(first, 7) == b"ready\r\n", "what was before it"
            first.sendall(b"ab")
            assert receive(first, 2) == b"AB"
            assert not select.select([second], [], [], 0.1)[0], "it waits for its turn"
            vm.console.send("c")
            assert receive(first, 1) == b"C"
            first.close()
            second.sendall(b"de")
            assert receive(second, 2) == b"DE"


def test_a_unix_socket_is_its_owners_and_goes_with_the_machine(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/com1"
    with machine(bare.ECHO, [place]) as vm:
        assert vm.places == {"COM1": place}
        assert (tmp_path / "com1").stat().st_mode & 0o777 == 0o600
        with pytest.raises(wirt.Error, match=r"Clients of COM1 cannot be let in at .*somebody listens there"):
            machine(bare.ECHO, [place])
        client = dial(place)
        client.sendall(b"lq")
        assert vm.wait(20).exit_status == 5
    with client:
        assert receive(client, 8) == b"ready\r\nL"
        assert client.recv(1) == b""
    assert not (tmp_path / "com1").exists()


def test_a_pseudoterminal_passes_bytes_as_they_are_and_can_be_opened_again() -> None:
    with machine(bare.ECHO, ["pty"]) as vm:
        for turn in range(3):
            fd = os.open(vm.places["COM1"], os.O_RDWR | os.O_NOCTTY)
            assert not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO)
            os.write(fd, b"\x03\r\x04%d" % turn)
            expected = (b"ready\r\n" if turn == 0 else b"") + bytes(
                byte ^ 0x20 for byte in b"\x03\r\x04%d" % turn
            )
            got = b""
            while len(got) < len(expected) and select.select([fd], [], [], 20)[0]:
                got += os.read(fd, 100)
            assert got == expected
            os.close(fd)
            # Whoever opens it right away is the same client.
            time.sleep(0.3)


def test_a_slow_client_gets_everything(tmp_path: Path) -> None:
    with machine(FLOOD.format(size=SIZE), [f"unix:{tmp_path}/com1"]) as vm:
        with dial(vm.places["COM1"]) as client:
            time.sleep(0.5)
            assert receive(client, SIZE) == bytes(range(256)) * (SIZE >> 8)
        assert until(lambda: vm.memory.read(0x900, 1) == b"\x01")


def test_a_client_that_stands_still_does_not_stop_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PATIENCE", 0.5)
    with machine(FLOOD.format(size=SIZE), [f"unix:{tmp_path}/com1"]) as vm:
        with dial(vm.places["COM1"]):
            assert until(lambda: vm.memory.read(0x900, 1) == b"\x01")
        with dial(vm.places["COM1"]) as later:
            assert receive(later, 1 << 20)[-256:] == bytes(range(256)), "the newest of the output"


def test_the_guest_does_not_wait_for_nobody() -> None:
    with machine(FLOOD.format(size=SIZE), ["pty", "tcp:0"]) as vm:
        assert until(lambda: vm.memory.read(0x900, 1) == b"\x01")


def test_input_waits_for_a_guest_that_takes_its_time(tmp_path: Path) -> None:
    data = b"abcdefgh" * 16_000
    with machine(bare.ECHO, [f"unix:{tmp_path}/com1"]) as vm, dial(vm.places["COM1"]) as client:
        vm.pause()
        client.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += client.send((data * 10)[sent:])
        client.settimeout(20)
        vm.resume()
        assert receive(client, 7 + sent) == b"ready\r\n" + (data * 10)[:sent].upper()


def test_ports_are_where_a_pc_has_them(tmp_path: Path) -> None:
    ports = (("COM", 0x3F8), ("COM", 0x2F8), ("COM", 0x3E8), ("COM", 0x2E8))
    source = "".join(
        f"mov al, '{number}'\n mov dx, {port:#x}\n out dx, al\n" for number, (_, port) in enumerate(ports, 1)
    )
    for number, port in ((8, 0x378), (9, 0x278)):
        source += f"mov al, '{number}'\n mov dx, {port:#x}\n out dx, al\n mov dx, {port + 2:#x}\n"
        source += "mov al, 0x0d\n out dx, al\n mov al, 0x0c\n out dx, al\n"
    source += "mov dx, 0xf4\n out dx, al\n"
    log, paper = tmp_path / "log", tmp_path / "paper"
    with machine(source, [None, f"file:{log}", None, None], [None, f"file:{paper}"]) as vm:
        assert vm.wait(20).reason == "exit"
        assert [console.read() for console in vm.consoles] == [b"1", b"2", b"3", b"4"]
        assert [printer.read() for printer in vm.printers] == [b"8", b"9"]
        assert vm.console is vm.consoles[0]
    assert (log.read_bytes(), paper.read_bytes()) == (b"2", b"9")


def test_a_machine_has_four_serial_and_two_parallel_ports_at_most() -> None:
    with pytest.raises(wirt.UsageError, match="1 to 4 ports COM1"):
        wirt.VM(serials=[None] * 5)
    with pytest.raises(wirt.UsageError, match="1 to 4 ports COM1"):
        wirt.VM(serials=[])
    with pytest.raises(wirt.UsageError, match="0 to 2 ports LPT1"):
        wirt.VM(parallels=[None] * 3)
    with pytest.raises(wirt.UsageError, match="serials=\\['pty'\\]"):
        wirt.VM(serials="pty")
