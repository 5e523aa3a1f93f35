"""Network cards: what a user asks for, the far end of each, and where firmware finds it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from wirt import _core
from wirt.errors import Error, NotFoundError, UsageError
from wirt.machine import rom

CardModel = Literal["virtio", "e1000"]
CARD_MODELS: Final[tuple[CardModel, ...]] = ("virtio", "e1000")
MAX_NETS: Final = 16
MAX_SNAPLEN: Final = 262144
ISOLATED: Final = "isolated"
"""A network with nobody else in it."""

_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_OPTIONS: Final = ("model", "mac", "rom", "capture", "snaplen")
_NO_ROM: Final = "none"


class HasDescriptor(Protocol):
    """A socket, for instance."""

    def fileno(self) -> int:
        """The number of the open file."""


class Net(NamedTuple):
    """A network card and the network it is on.

    `network` is isolated, unix:PATH, tcp:HOST:PORT, udp:PORT:HOST:PORT or fd:NUMBER, or a connected stream or
    datagram socket. `mac` is the card's address, by default made from the machine's UUID. `rom` is none or
    the file of an expansion ROM, by default iPXE's where firmware boots and there is a network. Frames are
    written to the file `capture` (pcap), of each at most `snaplen` bytes.
    """

    network: str | HasDescriptor = ISOLATED
    model: CardModel = "virtio"
    mac: str | None = None
    rom: Path | Literal["none"] | None = None
    capture: Path | None = None
    snaplen: int = MAX_SNAPLEN


class Card(NamedTuple):
    """A card as it goes into the machine. `rom` is the file of its expansion ROM."""

    model: CardModel
    mac: bytes
    rom: Path | None


def parse_net(text: str) -> Net:
    """Read NETWORK[,OPTION=VALUE]... Raises UsageError."""
    network, options = text, {}
    while True:
        # From the end: what is no option is a part of the network's name.
        rest, comma, word = network.rpartition(",")
        key, equals, value = word.partition("=")
        if not comma or not equals or key not in _OPTIONS:
            break
        if key in options or not value:
            raise UsageError(
                f"The network card {text!r} has {key} twice, or empty: give it once, with a value."
            )
        network, options[key] = rest, value
    model = next((model for model in CARD_MODELS if model == options.get("model", CARD_MODELS[0])), None)
    if model is None:
        raise UsageError(f"There is no network card {options['model']!r}: use {' or '.join(CARD_MODELS)}.")
    snaplen = options.get("snaplen", str(MAX_SNAPLEN))
    if not (snaplen.isascii() and snaplen.isdecimal() and len(snaplen) < 10):
        raise UsageError(f"{snaplen!r} is no number of bytes: give snaplen=1 to snaplen={MAX_SNAPLEN}.")
    rom_name = options.get("rom")
    capture = options.get("capture")
    return Net(
        network,
        model,
        options.get("mac"),
        _NO_ROM if rom_name == _NO_ROM else None if rom_name is None else Path(rom_name),
        None if capture is None else Path(capture),
        int(snaplen),
    )


def check_nets(nets: Sequence[Net]) -> None:
    """Raise UsageError for what cannot be."""
    if len(nets) > MAX_NETS:
        raise UsageError(f"A machine has at most {MAX_NETS} network cards, not {len(nets)}.")
    for net in nets:
        if net.mac is not None:
            _address(net.mac)
        if net.model not in CARD_MODELS:
            raise UsageError(f"There is no network card {net.model!r}: use {' or '.join(CARD_MODELS)}.")
        if not 1 <= net.snaplen <= MAX_SNAPLEN:
            raise UsageError(f"A capture takes 1 to {MAX_SNAPLEN} bytes of a frame, not {net.snaplen}.")
        if net.network == "":
            raise UsageError("The network's name is empty: say isolated, or where it is.")
    for one, other in combinations(nets, 2):
        if one.mac is not None and other.mac is not None and _address(one.mac) == _address(other.mac):
            raise UsageError(f"Two network cards have the address {one.mac}: give each its own.")
        if one.capture is not None and one.capture == other.capture:
            raise UsageError(f"Two network cards are captured to {one.capture}: give each its own file.")


def cards_of(nets: Sequence[Net], uuid: bytes, *, firmware: bool) -> tuple[Card, ...]:
    """What goes into a machine with this UUID. `firmware`: it boots by some, which runs expansion ROMs."""
    return tuple(
        Card(
            net.model,
            hardware_address(uuid, index) if net.mac is None else _address(net.mac),
            _rom(net, firmware=firmware),
        )
        for index, net in enumerate(nets)
    )


def _rom(net: Net, *, firmware: bool) -> Path | None:
    if net.rom == _NO_ROM:
        return None
    if net.rom is not None:
        return net.rom
    return rom.ipxe(net.model) if firmware and net.network != ISOLATED else None


def _address(text: str) -> bytes:
    if not isinstance(text, str) or not _MAC.fullmatch(text.lower()):
        raise UsageError(f"{text!r} is no network address: write six bytes, for instance 52:54:00:12:34:56.")
    address = bytes.fromhex(text.replace(":", ""))
    if address[0] & 1 or not any(address):
        raise UsageError(
            f"{text} is a group's address or nobody's: a card has one of its own (02:… for instance)."
        )
    return address


def hardware_address(uuid: bytes, index: int) -> bytes:
    """A network card's address: locally administered, and always the same for a machine."""
    return bytes((0x52, *uuid[-5:-1], (uuid[-1] + index) & 0xFF))


def open_network(net: Net, used: Sequence[Path]) -> _core.Network:
    """Connect a card's far end. The capture may go to none of the files `used`.

    Raises UsageError, NotFoundError or Error with a sentence for the user.
    """
    capture = None if net.capture is None else _open_capture(net.capture, used)
    try:
        if net.network == ISOLATED:
            return _core.Network(None, capture, net.snaplen)
        if not isinstance(net.network, str):
            return _core.Network(net.network.fileno(), capture, net.snaplen)
        from wirt.network.connection import connect  # Machines without a network do not pay for it.

        with connect(net.network) as connection:
            return _core.Network(connection.fileno(), capture, net.snaplen)
    except (_core.CoreError, OSError) as error:
        raise UsageError(f"A network card cannot be put on its network: {error}.") from error
    finally:
        if capture is not None:
            os.close(capture)


def _open_capture(path: Path, used: Sequence[Path]) -> int:
    for other in used:
        if path.exists() and other.exists() and path.samefile(other):
            raise UsageError(f"The capture may not go to {path}: the machine uses that file.")
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        kind = NotFoundError if isinstance(error, FileNotFoundError) else Error
        raise kind(f"The capture {path} cannot be opened: {error.strerror}.") from error


def add_card(machine: _core.Machine, slot: int, index: int, card: Card, network: _core.Network) -> str:
    """Add a card in a PCI slot; return its path for firmware, as SeaBIOS matches it (src/boot.c)."""
    add = {"virtio": machine.add_net, "e1000": machine.add_e1000}[card.model]
    image = b"" if card.rom is None else rom.read_rom(card.rom)
    add(slot, f"net{index}", card.mac, network, image)
    return f"/pci@i0cf8/ethernet@{slot:x}/ethernet-phy@0"
