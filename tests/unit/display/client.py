"""A small RFB client, written from RFC 6143 and rfbproto, that decodes what it is shown."""

from __future__ import annotations

import socket
import struct
import zlib
from typing import Final, NamedTuple

RAW: Final = 0
TIGHT: Final = 7
ZRLE: Final = 16
DESKTOP_SIZE: Final = -223
CURSOR: Final = -239
QEMU_KEYS: Final = -258
EXTENDED_SIZE: Final = -308


class Format(NamedTuple):
    """A PIXEL_FORMAT."""

    bits: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    maxima: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    def pack(self) -> bytes:
        flags = (self.bits, self.depth, self.big_endian, self.true_colour)
        return struct.pack(">4B3H3B3x", *flags, *self.maxima, *self.shifts)

    def value(self, colour: int) -> int:
        """The pixel value that stands for a colour."""
        channels = [colour >> shift & 255 for shift in (16, 8, 0)]
        fields = zip(channels, self.maxima, self.shifts, strict=True)
        return sum((channel * most + 127) // 255 << shift for channel, most, shift in fields)


class Rectangle(NamedTuple):
    """A rectangle that was received; pixels are in the client's canvas."""

    left: int
    top: int
    width: int
    height: int
    encoding: int
    data: bytes = b""


class Refused(Exception):
    """The server said no, with its reason."""


class Client:
    """A viewer. `canvas` holds pixel values row by row, None where nothing was shown."""

    def __init__(self, connection: socket.socket, version: bytes = b"RFB 003.008\n") -> None:
        self.socket = connection
        self.version = version
        self.format = Format()
        self.width = self.height = 0
        self.canvas: list[int | None] = []
        self.name = ""
        self.colour_map: list[tuple[int, int, int]] = []
        self._inflaters: dict[int, zlib._Decompress] = {}

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError(f"the server left after {data[:99]!r}")
            data += piece
        return bytes(data)

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(">" + form, self.receive(struct.calcsize(">" + form)))

    def handshake(self, answer: bytes | None = None, shared: bool = True) -> None:
        """Go through the whole handshake. `answer`: the 16 bytes for a challenge."""
        kind = self.choose_security()
        if kind == 2:
            self.receive(16)
            assert answer is not None
            self.send(answer)
        if kind == 2 or self.version == b"RFB 003.008\n":
            (result,) = self.unpack("I")
            if result:
                raise Refused(self.reason() if self.version == b"RFB 003.008\n" else "")
        self.initialise(shared)

    def choose_security(self) -> int:
        """Agree on a version, and choose the only security type there is."""
        assert self.receive(12) == b"RFB 003.008\n"
        self.send(self.version)
        if self.version < b"RFB 003.007\n":
            (kind,) = self.unpack("I")
            if kind == 0:
                raise Refused(self.reason())
            return kind
        (count,) = self.receive(1)
        if count == 0:
            raise Refused(self.reason())
        (kind,) = self.receive(count)
        self.send(bytes((kind,)))
        return kind

    def initialise(self, shared: bool) -> None:
        self.send(bytes((shared,)))
        self.width, self.height = self.unpack("2H")
        self.canvas = [None] * (self.width * self.height)
        assert self.receive(16) == Format().pack()
        self.name = self.reason()

    def reason(self) -> str:
        (size,) = self.unpack("I")
        return self.receive(size).decode()

    def set_format(self, form: Format) -> None:
        self.send(b"\0\0\0\0" + form.pack())
        self.format = form
        if not form.true_colour:
            assert self.unpack("B") == (1,)
            _, first, count = self.unpack("BHH")
            assert (first, count) == (0, 256)
            self.colour_map = [self.unpack("3H") for _ in range(count)]  # type: ignore[misc]

    def set_encodings(self, *encodings: int) -> None:
        self.send(struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))

    def request(self, incremental: bool = False, area: tuple[int, int, int, int] | None = None) -> None:
        self.send(struct.pack(">BB4H", 3, incremental, *(area or (0, 0, self.width, self.height))))

    def key(self, keysym: int, down: bool) -> None:
        self.send(struct.pack(">BBxxI", 4, down, keysym))

    def qemu_key(self, keysym: int, code: int, down: bool) -> None:
        self.send(struct.pack(">BBHII", 255, 0, down, keysym, code))

    def pointer(self, buttons: int, x: int, y: int) -> None:
        self.send(struct.pack(">BBHH", 5, buttons, x, y))

    def update(self) -> list[Rectangle]:
        """Receive an update, draw what it shows, and return its rectangles."""
        kind, count = self.unpack("BxH")
        assert kind == 0
        return [self._rectangle() for _ in range(count)]

    def pixel(self, data: bytes) -> int:
        return int.from_bytes(data, "big" if self.format.big_endian else "little")

    def _rectangle(self) -> Rectangle:
        left, top, width, height, encoding = self.unpack("4Hi")
        area = left, top, width, height
        size = self.format.bits // 8
        data = b""
        if encoding == RAW:
            data = self.receive(width * height * size)
            self._draw(area, [self.pixel(data[at : at + size]) for at in range(0, len(data), size)])
        elif encoding == ZRLE:
            (length,) = self.unpack("I")
            data = self._inflate(0, self.receive(length))
            self._zrle(area, data)
        elif encoding == TIGHT:
            self._tight(area)
        elif encoding == CURSOR:
            data = self.receive(width * height * size + (width + 7) // 8 * height)
        elif encoding == EXTENDED_SIZE:
            data = self.receive(4)
            data += self.receive(16 * data[0])
            if left != 1:
                self._resize(width, height)
        elif encoding == DESKTOP_SIZE:
            self._resize(width, height)
        else:
            assert encoding == QEMU_KEYS, f"encoding {encoding}"
        return Rectangle(*area, encoding, data)

    def _resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.canvas = [None] * (width * height)

    def _draw(self, area: tuple[int, int, int, int], values: list[int]) -> None:
        left, top, width, height = area
        assert len(values) == width * height and left + width <= self.width and top + height <= self.height
        for y in range(height):
            start = (top + y) * self.width + left
            self.canvas[start : start + width] = values[y * width : (y + 1) * width]

    def _inflate(self, stream: int, data: bytes) -> bytes:
        inflater = self._inflaters.setdefault(stream, zlib.decompressobj())
        return inflater.decompress(data)

    def _zrle(self, area: tuple[int, int, int, int], data: bytes) -> None:
        left, top, width, height = area
        used = sum(most << shift for most, shift in zip(self.format.maxima, self.format.shifts, strict=True))
        compact = self.format.true_colour and self.format.bits == 32 and self.format.depth <= 24
        size = 3 if compact and (used < 1 << 24 or used & 255 == 0) else self.format.bits // 8
        shift = 8 if size == 3 and used >= 1 << 24 else 0
        position = 0

        def take(count: int) -> bytes:
            nonlocal position
            position += count
            assert position <= len(data)
            return data[position - count : position]

        def cpixel() -> int:
            return self.pixel(take(size)) << shift

        def length() -> int:
            total = 1
            while True:
                (byte,) = take(1)
                total += byte
                if byte != 255:
                    return total

        for y in range(0, height, 64):
            for x in range(0, width, 64):
                w, h = min(64, width - x), min(64, height - y)
                (kind,) = take(1)
                palette = [cpixel() for _ in range(kind & 127)]
                values: list[int] = []
                if kind == 0:
                    values = [cpixel() for _ in range(w * h)]
                elif kind == 1:
                    values = palette * (w * h)
                elif kind <= 16:
                    bits = 1 if kind == 2 else 2 if kind <= 4 else 4
                    for _ in range(h):
                        row = take((w * bits + 7) // 8)
                        for column in range(w):
                            place = 8 - bits - column * bits % 8
                            values.append(palette[row[column * bits // 8] >> place & (1 << bits) - 1])
                else:
                    assert kind == 128 or kind >= 130
                    while len(values) < w * h:
                        if kind == 128:
                            value = cpixel()
                            values += [value] * length()
                        else:
                            (index,) = take(1)
                            values += [palette[index & 127]] * (length() if index & 128 else 1)
                self._draw((left + x, top + y, w, h), values)
        assert position == len(data)

    def _tight(self, area: tuple[int, int, int, int]) -> None:
        _, _, width, height = area
        full = (self.format.bits, self.format.depth) == (32, 24) and self.format.maxima == (255, 255, 255)
        size = 3 if full and self.format.true_colour else self.format.bits // 8

        def tpixel(data: bytes) -> int:
            if len(data) == 3:
                return sum(part << shift for part, shift in zip(data, self.format.shifts, strict=True))
            return self.pixel(data)

        (control,) = self.receive(1)
        assert control & 15 == 0
        if control == 0x80:
            self._draw(area, [tpixel(self.receive(size))] * (width * height))
            return
        assert control < 0x80
        stream, palette, bits = 1 + (control >> 4 & 3), [], 8 * size
        if control & 0x40:
            assert self.receive(1) == b"\1"
            count = self.receive(1)[0] + 1
            palette = [tpixel(self.receive(size)) for _ in range(count)]
            bits = 1 if count == 2 else 8
        row = (width * bits + 7) // 8
        data = self._tight_data(stream, row * height)
        assert len(data) == row * height
        if not palette:
            self._draw(area, [tpixel(data[at : at + size]) for at in range(0, len(data), size)])
        elif bits == 8:
            self._draw(area, [palette[index] for index in data])
        else:
            values = [
                palette[data[y * row + x // 8] >> 7 - x % 8 & 1] for y in range(height) for x in range(width)
            ]
            self._draw(area, values)

    def _tight_data(self, stream: int, size: int) -> bytes:
        if size < 12:
            return self.receive(size)
        length = 0
        for shift in (0, 7, 14):
            (byte,) = self.receive(1)
            length |= (byte if shift == 14 else byte & 127) << shift
            if byte < 128:
                break
        return self._inflate(stream, self.receive(length))
