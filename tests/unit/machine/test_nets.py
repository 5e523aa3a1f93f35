"""Network cards: what users write, and what becomes of it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

import wirt
from wirt.machine.nets import MAX_SNAPLEN, Net, cards_of, check_nets, open_network, parse_net

UUID = bytes(range(16))


@pytest.mark.parametrize(
    ("text", "net"),
    [
        ("isolated", Net()),
        ("unix:/run/p.sock", Net("unix:/run/p.sock")),
        ("fd:3,model=e1000", Net("fd:3", "e1000")),
        ("tcp:h:1,mac=02:00:00:00:00:01,rom=none", Net("tcp:h:1", mac="02:00:00:00:00:01", rom="none")),
        ("isolated,rom=a,capture=b,snaplen=64", Net(rom=Path("a"), capture=Path("b"), snaplen=64)),
        # What is no option belongs to the network's name.
        ("unix:/a,b=c,d,model=e1000", Net("unix:/a,b=c,d", "e1000")),
        ("unix:/a,model=e1000,d", Net("unix:/a,model=e1000,d")),
    ],
)
def test_what_users_write(text: str, net: Net) -> None:
    assert parse_net(text) == net


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("isolated,model=rtl8139", "no network card 'rtl8139': use virtio or e1000"),
        ("isolated,mac=", "mac twice, or empty"),
        ("isolated,model=e1000,model=virtio", "model twice"),
        ("isolated,snaplen=many", "'many' is no number of bytes"),
        ("isolated,snaplen=0", "1 to 262144 bytes"),
        (f"isolated,snaplen={MAX_SNAPLEN + 1}", "1 to 262144 bytes"),
        ("isolated,mac=02:00:00:00:00", "no network address"),
        ("isolated,mac=02-00-00-00-00-01", "no network address"),
        ("isolated,mac=03:00:00:00:00:01", "a group's address"),
        ("isolated,mac=00:00:00:00:00:00", "nobody's"),
        ("", "network's name is empty"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(wirt.UsageError, match=says):
        check_nets([parse_net(text)])


@pytest.mark.parametrize(
    ("nets", "says"),
    [
        ([Net(mac="02:00:00:00:00:0a"), Net(mac="02:00:00:00:00:0A")], "Two network cards have the address"),
        ([Net(capture=Path("x")), Net(), Net(capture=Path("x"))], "captured to x"),
        ([Net()] * 17, "at most 16 network cards, not 17"),
    ],
)
def test_cards_that_do_not_go_together_are_refused(nets: list[Net], says: str) -> None:
    with pytest.raises(wirt.UsageError, match=says):
        check_nets(nets)


def test_addresses_are_local_unicast_stable_and_different() -> None:
    cards = cards_of([Net()] * 16, b"\xff" * 16, firmware=False)
    addresses = [card.mac for card in cards]
    assert len(set(addresses)) == 16
    assert all(len(address) == 6 and address[0] & 3 == 2 for address in addresses)
    assert cards == cards_of([Net()] * 16, b"\xff" * 16, firmware=False)
    assert cards_of([Net(mac="02:0A:0b:00:00:01")], UUID, firmware=False)[0].mac.hex() == "020a0b000001"


def test_roms_are_for_firmware_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wirt.machine.rom.ipxe", lambda model: Path(f"/ipxe/{model}"))

    def roms(firmware: bool, *nets: Net) -> list[Path | None]:
        return [card.rom for card in cards_of(nets, UUID, firmware=firmware)]

    assert roms(True, Net("unix:a"), Net("fd:3", "e1000")) == [Path("/ipxe/virtio"), Path("/ipxe/e1000")]
    assert roms(True, Net(), Net("unix:a", rom="none")) == [None, None]
    assert roms(False, Net("unix:a"), Net(rom=Path("own"))) == [None, Path("own")]


class TestFarEnd:
    def test_a_link_is_as_its_cable_and_its_peer_are(self) -> None:
        ours, peer = socket.socketpair()
        with ours, peer:
            network = open_network(Net(ours), [])
            assert (network.plugged, network.up) == (True, True)
            network.set_plugged(False)
            assert (network.plugged, network.up) == (False, False)
            network.set_plugged(True)
            assert network.up
            ours.close()
            network.close()
            assert peer.recv(1) == b""
            assert (network.plugged, network.up) == (False, False)
            network.set_plugged(True)

    def test_a_peer_sees_that_a_machine_was_closed(self) -> None:
        ours, peer = socket.socketpair()
        with peer, wirt.VM(memory="1M", nets=[Net(ours), Net(model="e1000")], accel="recompiler") as vm:
            ours.close()
            vm.close()
            assert peer.recv(1) == b""
            assert not vm.nets[0].link_up

    def test_what_is_no_connected_socket_is_refused(self) -> None:
        with socket.socket() as unconnected, pytest.raises(wirt.UsageError, match="cannot be put on"):
            open_network(Net(unconnected), [])
        with open("/dev/null") as file, pytest.raises(wirt.UsageError, match="cannot be put on"):
            open_network(Net(file), [])

    def test_a_capture_goes_to_a_file_of_its_own(self, tmp_path: Path) -> None:
        capture = tmp_path / "net.pcap"
        open_network(Net(capture=capture, snaplen=100), [tmp_path / "missing"]).close()
        assert capture.read_bytes()[:8].hex() == "4d3cb2a102000400"
        assert int.from_bytes(capture.read_bytes()[16:20], "little") == 100
        link = tmp_path / "link"
        link.symlink_to(capture)
        with pytest.raises(wirt.UsageError, match="the machine uses that file"):
            open_network(Net(capture=link), [capture])
        with pytest.raises(wirt.NotFoundError, match="cannot be opened"):
            open_network(Net(capture=tmp_path / "no" / "file"), [])
        with pytest.raises(wirt.Error, match="Is a directory"):
            open_network(Net(capture=tmp_path), [])


def test_a_machine_has_the_cards_that_were_asked_for() -> None:
    def network_devices(**options: Any) -> list[str]:
        with wirt.VM(memory="1M", accel="recompiler", **options) as vm:
            return [f"{card.model} {card.mac}" for card in vm.nets]

    assert network_devices(nets=["none"]) == network_devices(nets=[]) == []
    assert len(network_devices()) == 1
    cards = ["isolated,mac=02:00:00:00:00:01", Net(model="e1000", mac="02:00:00:00:00:02")]
    assert network_devices(nets=cards) == ["virtio 02:00:00:00:00:01", "e1000 02:00:00:00:00:02"]
