"""Linux on a network: through a socket to a server, and to another guest."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

import pytest

import wirt
from linux_guest import LINUX_GUEST
from pxe_server import CLIENT, SERVER, PxeServer

pytestmark = [*LINUX_GUEST, pytest.mark.timeout(180)]

PATIENCE = 60.0
SERVER_ADDRESS = ".".join(map(str, SERVER))
CLIENT_ADDRESS = ".".join(map(str, CLIENT))
MIB = 8


def output(vm: wirt.VM, command: str) -> str:
    """The output of a command that succeeds."""
    done = vm.exec(command, PATIENCE)
    assert done.returncode == 0, done
    return done.stdout


def frames(capture: Path) -> list[bytes]:
    """The frames in a pcap file."""
    data, at, found = capture.read_bytes(), 24, []
    while at < len(data):
        stored, length = struct.unpack_from("<II", data, at + 8)
        assert stored == min(length, 96)
        found.append(data[at + 16 : at + 16 + stored])
        at += 16 + stored
    return found


def test_a_guest_gets_an_address_pings_and_sees_its_cable(tmp_path: Path) -> None:
    capture = tmp_path / "net.pcap"
    with PxeServer({}) as server:
        card = wirt.Net(server.vm_end, mac="02:00:00:00:00:0a", capture=capture, snaplen=96)
        with wirt.VM("tiny", nets=[card], accel="recompiler") as vm:
            output(vm, f"while ! ip addr show eth0 | grep -q {CLIENT_ADDRESS}; do sleep 0.1; done")
            output(vm, f"ping -c 3 -i 0.1 -s 1400 {SERVER_ADDRESS}")
            assert server.pinged == 3
            vm.nets[0].unplug()
            output(vm, "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
            assert not vm.nets[0].link_up
            assert vm.exec(f"ping -c 1 -W 1 {SERVER_ADDRESS}", PATIENCE).returncode == 1
            assert server.pinged == 3
            vm.nets[0].plug()
            output(vm, "while [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done")
            output(vm, f"ping -c 1 {SERVER_ADDRESS}")
            # The one from between may have waited in the guest.
            assert server.pinged in (4, 5)
    guest = bytes.fromhex("02000000000a")
    captured = frames(capture)
    # Echo requests and replies, by the protocol and the type.
    icmp = [frame for frame in captured if frame[12:14] == b"\x08\0" and frame[23] == 1]
    assert sum(frame[34] == 8 and frame[6:12] == guest for frame in icmp) == server.pinged
    assert sum(frame[34] == 0 and frame[:6] == guest for frame in icmp) == server.pinged


def test_a_peer_that_leaves_takes_the_link_down() -> None:
    ours, peer = socket.socketpair()
    with ours, wirt.VM("tiny", nets=[wirt.Net(ours)], accel="recompiler") as vm:
        assert output(vm, "cat /sys/class/net/eth0/carrier") == "1\n"
        peer.close()
        output(vm, "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
        assert not vm.nets[0].link_up


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_two_guests_exchange_data_both_ways(kind: socket.SocketKind) -> None:
    one, other = socket.socketpair(type=kind)
    with (
        wirt.VM("tiny", nets=[wirt.Net(one, mac="02:00:00:00:00:0a")], accel="recompiler") as left,
        wirt.VM("tiny", nets=[wirt.Net(other, mac="02:00:00:00:00:0b")], accel="recompiler") as right,
    ):
        one.close()
        other.close()
        for vm, number in ((left, 1), (right, 2)):
            output(
                vm, f"ip addr add 10.1.1.{number}/24 dev eth0; dd if=/dev/urandom of=f bs=1M count={MIB} 2>&1"
            )
        digests = [output(vm, "sha256sum <f") for vm in (left, right)]
        # What keeps the listener's input open, as it leaves at its end.
        listen = "mkfifo p; sleep 1000 >p & nc -l -p 5000 <p >got & sleep 0.2"
        for vm in (left, right):
            output(vm, listen)
        output(left, "nc 10.1.1.2 5000 <f >/dev/null 2>&1 &")
        output(right, "nc 10.1.1.1 5000 <f")
        for vm, digest in ((left, digests[1]), (right, digests[0])):
            size = MIB << 20
            output(vm, f"while [ $(stat -c %s got) -lt {size} ]; do sleep 0.1; done")
            assert output(vm, "sha256sum <got") == digest


def test_a_network_goes_on_after_a_reset_of_the_guest() -> None:
    with PxeServer({}) as server, wirt.VM("tiny", nets=[wirt.Net(server.vm_end)], accel="recompiler") as vm:
        output(vm, f"while ! ip addr show eth0 | grep -q {CLIENT_ADDRESS}; do sleep 0.1; done")
        vm.console.send("reboot -f\n")
        vm.console.expect(re.escape("Leave with: exit"), timeout=PATIENCE)
        output(vm, f"while ! ip addr show eth0 | grep -q {CLIENT_ADDRESS}; do sleep 0.1; done")
        output(vm, f"ping -c 1 {SERVER_ADDRESS}")


def test_several_cards_of_two_kinds_have_their_addresses() -> None:
    cards = ["isolated,mac=02:00:00:00:00:01", "isolated,model=e1000,mac=02:00:00:00:00:02", "isolated"]
    with wirt.VM("tiny", nets=cards, accel="recompiler") as vm:
        # Debian's cloud kernel has no driver for the e1000.
        assert output(vm, "cat /sys/bus/pci/devices/*/device | grep -c -E '0x(1000|1041)'") == "2\n"
        assert "02:00:00:00:00:01" in output(vm, "cat /sys/class/net/eth*/address")
        assert output(vm, "cat /sys/bus/pci/devices/0000:00:1f.0/device") == "0x100e\n"


def test_the_manuals_example_runs() -> None:
    manual = Path(__file__).parents[2] / "docs" / "net.md"
    (example,) = re.findall(r"```python\n(.*?)```", manual.read_text(), re.DOTALL)
    exec(compile(example, str(manual), "exec"), {})
