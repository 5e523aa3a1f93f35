"""Viewers that want to do harm."""

from __future__ import annotations

import random
import resource
import struct
from collections.abc import Callable

import pytest

from unit.display.conftest import Stage, drain
from unit.display.fakes import FakeScreen

Make = Callable[..., Stage]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x63", "sent a message of unknown type 99"),
        (b"\xff\x07", "sent a message of unknown type 255"),
        (struct.pack(">BxH", 2, 0xFFFF), "named 65535 encodings"),
        (struct.pack(">BxxxI", 6, 0xFFFFFFFF), "sent a clipboard of 4294967295 bytes"),
        (bytes(20), "wants pixels of 0 bits: 8, 16 and 32 are possible"),
        (
            b"\0\0\0\0\x20\x18\0\1" + struct.pack(">3H3B3x", 255, 255, 255, 16, 8, 25),
            "wants an intensity of at most 255, shifted by 25, in pixels of 32 bits",
        ),
    ],
)
def test_a_broken_message_ends_the_connection_with_one_sentence(
    stage: Make, data: bytes, sentence: str
) -> None:
    made = stage()
    client = made.client()
    client.send(data)
    drain(client.socket)
    assert made.logged(1) == [f"The viewer at 127.0.0.1 {sentence} and was sent away."]


@pytest.mark.parametrize(
    "area",
    [(0, 0, 0, 0), (65535, 65535, 65535, 65535), (99, 69, 65535, 1), (0, 0, 65535, 65535), (100, 0, 1, 1)],
)
def test_areas_beyond_the_screen_are_cut(stage: Make, area: tuple[int, int, int, int]) -> None:
    client = stage().client()
    client.request(area=area)
    (shown,) = client.update()
    assert shown.width > 0 and shown.left + shown.width <= 100 and shown.top + shown.height <= 70


def test_a_viewer_that_reads_nothing_costs_one_update(stage: Make) -> None:
    made = stage(screen=FakeScreen(512, 384))
    client = made.client()
    client.socket.settimeout(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Refused sizes are answered at once, and every request could make an update of 768 KiB.
    flood = (struct.pack(">BB4H", 3, 0, 0, 0, 512, 384) + b"\xfb\0\x03\x20\x02\x58\0\0") * 1000
    with pytest.raises(TimeoutError):
        for _ in range(10_000):
            client.send(flood)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    quick = made.client()
    quick.request()
    quick.update()
    assert quick.canvas == made.screen.colours()


def test_random_messages_harm_nobody(stage: Make) -> None:
    made = stage()
    generator = random.Random(6143)
    for _ in range(30):
        client = made.client()
        kinds = [0, 2, 3, 4, 5, 6, 251, 255]
        data = b""
        for _ in range(40):
            kind = generator.choice(kinds)
            body = bytearray(
                generator.randbytes({0: 19, 2: 3, 3: 9, 4: 7, 5: 5, 6: 7, 251: 7, 255: 11}[kind])
            )
            if kind == 0:
                body[3] = generator.choice((8, 16, 32))
                body[4] = 8
                body[7:13] = bytes(generator.choice((0, 1, 255)) for _ in range(6))
                body[13:16] = bytes(generator.randrange(9) for _ in range(3))
            elif kind == 2:
                count = generator.randrange(6)
                wishes = generator.choices((0, 7, 16, -223, -239, -258, -308, -256, -247, 12345), k=count)
                body[1:] = struct.pack(f">H{count}i", count, *wishes)
            elif kind == 6:
                size = generator.randrange(50)
                body[3:] = struct.pack(">I", size) + bytes(size)
            elif kind == 251:
                body[5] = 0
            elif kind == 255:
                body[0] = generator.randrange(8) // 7
            data += bytes((kind, *body))
        try:
            client.send(data)
            client.socket.shutdown(1)
        except OSError:
            pass
        drain(client.socket)
    assert not [sentence for sentence in made.logged() if "error" in str(sentence)]
    viewer = made.client()
    viewer.request()
    viewer.update()
    assert viewer.canvas == made.screen.colours()
    down: set[int] = set()
    for code, pressed in made.keyboard.events:
        (down.add if pressed else down.discard)(code)
    assert not down
