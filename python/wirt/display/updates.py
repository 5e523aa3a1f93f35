"""One viewer's picture: what it has asked for, what it has not seen, and the updates that show it.

RFC 6143, sections 7.6.1, 7.7 and 7.8, and the community's extensions (rfbproto). Updates are made when the
viewer has asked for one and has taken the one before, so changes that come faster than it takes them are
merged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

from wirt import _core
from wirt.display import arrow
from wirt.display.region import Area, Region
from wirt.display.screen import Screen

NATIVE_FORMAT: Final = struct.pack(">4B3H3B3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
"""A PIXEL_FORMAT: 0x00RRGGBB, little-endian, as frames have it."""
LARGEST: Final = 8192
"""Rows, and pixels in a row, that are shown of a screen."""

FRAME: Final = 1 / 30
"""Seconds from one update to the next, at least."""
IDLE: Final = 0.2
"""Seconds between two looks at a screen that has not changed for AWAKE."""
AWAKE: Final = 1.0

RAW: Final = 0
TIGHT: Final = 7
ZRLE: Final = 16
DESKTOP_SIZE: Final = -223
CURSOR: Final = -239
COMPRESS_LEVELS: Final = range(-256, -246)
QEMU_EXTENDED_KEY: Final = -258
EXTENDED_DESKTOP_SIZE: Final = -308

_BEST_LEVEL: Final = 6
"""zlib's levels above take much longer for hardly less."""
_UNCOMPRESSED: Final = 12
"""Tight: so few bytes are sent as they are."""
_PROHIBITED: Final = 1


class Updates:
    """What has to be shown to one viewer. Belongs to that viewer's thread.

    `width` and `height` are the screen's size as the viewer knows it. A viewer that cannot be told of another
    size is shown as much of the screen as fits.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._frame = screen.open_frame()
        self._frame.update()
        self._frame_size = self.width, self.height = self._size()
        self._format = _core.PixelFormat(NATIVE_FORMAT)
        self._encoding = RAW
        self._understood: frozenset[int] = frozenset()
        self._streams: dict[int, zlib._Compress] = {}
        self._level = 1
        self._unseen = Region.of(self._whole)
        self._wanted: Area | None = None
        self._size_wanted = False
        self._told_keys = False
        self._told_arrow: bool | None = None
        self._looked = self._changed = self._next_look = 0.0

    @property
    def screen_size(self) -> tuple[int, int]:
        """Width and height of the screen itself, when it was last looked at."""
        return self._frame_size

    def set_format(self, data: bytes) -> bytes:
        """Take a PIXEL_FORMAT; return the message that goes with it. Raises ValueError for what is none."""
        self._format = _core.PixelFormat(data)
        self._told_arrow = None
        if self._format.true_colour:
            return b""
        return struct.pack(">BxHH", 1, 0, 256) + _core.vnc_colour_map()

    def set_encodings(self, encodings: Sequence[int]) -> None:
        """Take what the viewer understands, in the order of what it likes."""
        self._understood = frozenset(encodings)
        self._encoding = next((code for code in encodings if code in (ZRLE, TIGHT, RAW)), RAW)
        level = next((code - COMPRESS_LEVELS.start for code in encodings if code in COMPRESS_LEVELS), 1)
        self._level = max(1, min(level, _BEST_LEVEL))
        self._told_keys = False
        self._told_arrow = None

    def request(self, incremental: bool, area: Area, now: float) -> None:
        """Take an update request. All that it asks for is unseen again unless it is `incremental`."""
        area = area.within(self._whole)
        if not area:
            area = Area(0, 0, 1, 1)
        self._wanted = area if self._wanted is None else self._wanted.around(area)
        if not incremental:
            self._unseen.add(area)
            self._size_wanted = EXTENDED_DESKTOP_SIZE in self._understood
            self.hurry(now)

    def refuse_size(self) -> bytes:
        """Return the answer to a viewer that wants another size of the screen: guests choose it."""
        return _message([self._extended_size(reason=1, status=_PROHIBITED)])

    def hurry(self, now: float) -> None:
        """Look as soon as the rate allows, as the viewer has done something that may show."""
        self._next_look = min(self._next_look, max(now, self._looked + FRAME))

    def wait(self, now: float) -> float | None:
        """Return the seconds until `next` should be called; None: the viewer has not asked for anything."""
        return None if self._wanted is None else max(0.0, self._next_look - now)

    def next(self, now: float) -> bytes | None:
        """Return the update that the viewer waits for, or None as long as there is nothing to show."""
        if self._wanted is None:
            return None
        self._look(now)
        if self._size_wanted:
            self._size_wanted = False
            return self._answer([self._extended_size()])
        resizable = not self._understood.isdisjoint((EXTENDED_DESKTOP_SIZE, DESKTOP_SIZE))
        if resizable and self._frame_size != (self.width, self.height):
            self.width, self.height = self._frame_size
            self._unseen = Region.of(self._whole)
            # Pixels have to wait: many viewers forget what comes in the same update.
            if EXTENDED_DESKTOP_SIZE in self._understood:
                return self._answer([self._extended_size()])
            return self._answer([_rectangle(self._whole, DESKTOP_SIZE)])
        rectangles = self._told()
        for area in self._unseen.take(self._wanted):
            rectangles += self._encode(area)
        return self._answer(rectangles) if rectangles else None

    @property
    def _whole(self) -> Area:
        return Area(0, 0, self.width, self.height)

    def _size(self) -> tuple[int, int]:
        return max(1, min(self._frame.width, LARGEST)), max(1, min(self._frame.height, LARGEST))

    def _answer(self, rectangles: Sequence[bytes]) -> bytes:
        self._wanted = None
        return _message(rectangles)

    def _look(self, now: float) -> None:
        """Take what has changed on the screen, and settle when to look again."""
        changes = self._frame.update()
        size = self._size()
        if size != self._frame_size:
            self._frame_size = size
            self._unseen.add(self._whole)
        for change in changes:
            self._unseen.add(Area(*change).within(self._whole))
        if changes:
            self._changed = now
        self._looked = now
        self._next_look = now + (FRAME if now - self._changed < AWAKE else IDLE)

    def _told(self) -> list[bytes]:
        """Return the pseudo-rectangles that the viewer has not been sent."""
        rectangles = []
        if QEMU_EXTENDED_KEY in self._understood and not self._told_keys:
            self._told_keys = True
            rectangles.append(_rectangle(self._whole, QEMU_EXTENDED_KEY))
        if CURSOR in self._understood and self._told_arrow != (shown := self._screen.arrow):
            self._told_arrow = shown
            rectangles.append(self._arrow(shown))
        return rectangles

    def _arrow(self, shown: bool) -> bytes:
        if not shown:
            return _rectangle(Area(0, 0, 0, 0), CURSOR)
        area = Area(0, 0, arrow.WIDTH, arrow.HEIGHT)
        return _rectangle(area, CURSOR) + self._format.raw(arrow.PICTURE, area) + arrow.MASK

    def _extended_size(self, reason: int = 0, status: int = 0) -> bytes:
        screens = struct.pack(">B3xI4HI", 1, 0, 0, 0, self.width, self.height, 0)
        return _rectangle(Area(reason, status, self.width, self.height), EXTENDED_DESKTOP_SIZE) + screens

    def _encode(self, area: Area) -> list[bytes]:
        if self._encoding == ZRLE:
            data = self._compress(0, self._format.zrle(self._frame, area))
            return [_rectangle(area, ZRLE) + struct.pack(">I", len(data)) + data]
        if self._encoding == TIGHT:
            parts = self._format.tight(self._frame, area)
            return [self._tight(Area(*place), head, stream, body) for place, head, stream, body in parts]
        return [_rectangle(area, RAW) + self._format.raw(self._frame, area)]

    def _tight(self, area: Area, head: bytes, stream: int | None, body: bytes) -> bytes:
        start = _rectangle(area, TIGHT) + head
        if stream is None or len(body) < _UNCOMPRESSED:
            return start + body
        data = self._compress(TIGHT + stream, body)
        return start + _compact(len(data)) + data

    def _compress(self, stream: int, data: bytes) -> bytes:
        """Compress with one of the connection's streams, which begin where the last piece ended.

        A stream keeps the level it began with.
        """
        compressor = self._streams.get(stream)
        if compressor is None:
            compressor = self._streams[stream] = zlib.compressobj(self._level)
        return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _rectangle(area: Area, encoding: int) -> bytes:
    return struct.pack(">4Hi", *area, encoding)


def _message(rectangles: Sequence[bytes]) -> bytes:
    return b"".join((struct.pack(">BxH", 0, len(rectangles)), *rectangles))


def _compact(length: int) -> bytes:
    """Return a length as Tight has it: 7 bits, 7 bits, 8 bits, the lowest first."""
    if length < 0x80:
        return bytes((length,))
    if length < 0x4000:
        return bytes((length & 0x7F | 0x80, length >> 7))
    return bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))
