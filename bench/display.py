"""What it costs to show a screen that changes entirely, thirty times a second, in each encoding of VNC."""

from __future__ import annotations

import random
import time
from statistics import median
from typing import Final

from bench import peers
from bench.report import Section
from wirt.display.region import Area
from wirt.display.updates import RAW, TIGHT, ZRLE, Updates

WIDTH: Final = 1024
HEIGHT: Final = 768
RATE: Final = 30
ENCODINGS: Final = {"Raw": RAW, "ZRLE": ZRLE, "Tight": TIGHT}


class Desktop:
    """A frame, and its screen: a desktop with windows full of text, scrolled a line at each update."""

    arrow = False
    width = WIDTH
    height = HEIGHT

    def __init__(self) -> None:
        generator = random.Random(1)
        glyphs = [[generator.choice((0, 0x18, 0x3C, 0x66, 0x7E)) for _ in range(16)] for _ in range(60)]
        self._pictures = [_draw(generator, glyphs) for _ in range(4)]
        self._turn = 0
        self.pixels = self._pictures[0]

    def open_frame(self) -> Desktop:
        return self

    def update(self) -> list[tuple[int, int, int, int]]:
        self._turn += 1
        self.pixels = self._pictures[self._turn % len(self._pictures)]
        return [(0, 0, WIDTH, HEIGHT)]


def _draw(generator: random.Random, glyphs: list[list[int]]) -> bytes:
    """Draw a background that grows darker, and three windows with a title and lines of text each."""
    rows = [bytearray((0x60 - y // 16, 0x50, 0x20, 0) * WIDTH) for y in range(HEIGHT)]
    windows = ((20, 30, 60, 20, 0xFFFFFF, 0x202020), (400, 200, 70, 30, 0x1E1E1E, 0xD4D4D4))
    for left, top, columns, lines, paper, ink in (*windows, (80, 480, 40, 16, 0xF6F5F4, 0x2E3436)):
        colours = [colour.to_bytes(4, "little") for colour in (paper, ink)]
        for y in range(top - 24, top):
            rows[y][4 * left : 4 * (left + 8 * columns)] = bytes((0x84, 0x66, 0x35, 0)) * (8 * columns)
        for line in range(lines):
            used = generator.randrange(columns)
            text = [generator.choice(glyphs) if column < used else [0] * 16 for column in range(columns)]
            for y in range(16):
                bits = (colours[glyph[y] >> 7 - x & 1] for glyph in text for x in range(8))
                rows[top + 16 * line + y][4 * left : 4 * (left + 8 * columns)] = b"".join(bits)
    return b"".join(rows)


def measure(quick: bool) -> Section:
    """Take the CPU time of updates of the whole screen."""
    section = Section(
        "display",
        f"Showing {WIDTH}x{HEIGHT} pixels of a desktop that change entirely, to one viewer.",
        ("", "ms of CPU an update", f"of a core at {RATE} a second", "KiB an update"),
        notes=[
            "Windows of text on a gradient; zlib's level is 1. Python and Rust together, without the socket."
        ],
        versions=[f"wirt: {peers.wirt().version}"],
        data={},
    )
    for name, encoding in ENCODINGS.items():
        updates = Updates(Desktop())
        updates.set_encodings([encoding])
        times, sizes = [], []
        for turn in range(20 if quick else 100):
            updates.request(True, Area(0, 0, WIDTH, HEIGHT), turn)
            started = time.thread_time_ns()
            update = updates.next(turn)
            times.append((time.thread_time_ns() - started) / 1e6)
            sizes.append(len(update or b"") / 1024)
        cost, size = median(times), median(sizes)
        section.rows.append((name, f"{cost:.1f}", f"{cost * RATE / 10:.0f} %", f"{size:.0f}"))
        section.data[name] = {"ms": cost, "kib": size}
    return section
