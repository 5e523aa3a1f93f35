"""What RFB clients send. RFC 6143, section 7.5, and the community's extensions (rfbproto).

Nothing is kept of a message before its lengths are checked.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

from wirt.display.region import Area
from wirt.display.stream import ProtocolError

MOST_ENCODINGS: Final = 1024
LONGEST_TEXT: Final = 16 << 20
"""Bytes of clipboard that a client may send; they are thrown away as they come."""


class SetPixelFormat(NamedTuple):
    data: bytes
    """16 bytes, which need not be a pixel format."""


class SetEncodings(NamedTuple):
    encodings: tuple[int, ...]


class UpdateRequest(NamedTuple):
    incremental: bool
    area: Area


class KeyEvent(NamedTuple):
    down: bool
    keysym: int
    code: int
    """QEMU's extension: which key it was. 0: not told."""


class PointerEvent(NamedTuple):
    buttons: int
    x: int
    y: int


class CutText(NamedTuple):
    size: int
    """Bytes that follow the message."""


class SetDesktopSize(NamedTuple):
    width: int
    height: int


Message: TypeAlias = (
    SetPixelFormat | SetEncodings | UpdateRequest | KeyEvent | PointerEvent | CutText | SetDesktopSize
)


def take_message(received: bytearray) -> Message | None:
    """Take the first message off the front of `received`; None: there is no whole one yet.

    Raises ProtocolError for what is no message.
    """
    size = _size(received)
    if size is None or len(received) < size:
        return None
    data = bytes(received[:size])
    del received[:size]
    match data[0]:
        case 0:
            return SetPixelFormat(data[4:])
        case 2:
            return SetEncodings(struct.unpack_from(f">{size // 4 - 1}i", data, 4))
        case 3:
            incremental, left, top, width, height = struct.unpack_from(">B4H", data, 1)
            return UpdateRequest(incremental != 0, Area(left, top, width, height))
        case 4:
            down, keysym = struct.unpack_from(">B2xI", data, 1)
            return KeyEvent(down != 0, keysym, 0)
        case 5:
            return PointerEvent(*struct.unpack_from(">B2H", data, 1))
        case 6:
            return CutText(*struct.unpack_from(">I", data, 4))
        case 251:
            return SetDesktopSize(*struct.unpack_from(">2H", data, 2))
        case _:
            return KeyEvent(*struct.unpack_from(">H2I", data, 2))


def _size(received: bytearray) -> int | None:
    """Return how many bytes of the first message have to be collected; None: too few have come to tell."""
    if not received:
        return None
    kind = received[0]
    if kind in _FIXED:
        text = int.from_bytes(received[4:8], "big") if kind == 6 and len(received) >= 8 else 0
        if text > LONGEST_TEXT:
            raise ProtocolError(f"sent a clipboard of {text} bytes")
        return _FIXED[kind]
    if kind == 2:
        if len(received) < 4:
            return None
        count = int.from_bytes(received[2:4], "big")
        if count > MOST_ENCODINGS:
            raise ProtocolError(f"named {count} encodings")
        return 4 + 4 * count
    if kind == 251:
        return 8 + 16 * received[6] if len(received) >= 8 else None
    if kind == 255 and len(received) < 2:
        return None
    if kind == 255 and received[1] == 0:
        return 12
    raise ProtocolError(f"sent a message of unknown type {kind}")


_FIXED: Final = {0: 20, 3: 10, 4: 8, 5: 6, 6: 8}
"""Sizes by type."""
