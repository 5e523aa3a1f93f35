"""What viewers see: encodings, pixel formats, sizes, cursors, and when."""

import time
from collections.abc import Callable

import pytest

from unit.display.client import (
    CURSOR,
    DESKTOP_SIZE,
    EXTENDED_SIZE,
    QEMU_KEYS,
    RAW,
    TIGHT,
    ZRLE,
    Client,
    Format,
    Rectangle,
)
from unit.display.conftest import Stage
from unit.display.fakes import FakeScreen
from wirt.display.updates import IDLE

Make = Callable[..., Stage]

FORMATS = [
    Format(),
    Format(big_endian=True),
    Format(shifts=(0, 8, 16)),
    Format(shifts=(24, 16, 8)),
    Format(depth=32),
    Format(bits=16, depth=16, maxima=(31, 63, 31), shifts=(11, 5, 0)),
    Format(bits=16, depth=15, big_endian=True, maxima=(31, 31, 31), shifts=(10, 5, 0)),
    Format(bits=8, depth=8, maxima=(7, 7, 3), shifts=(0, 3, 6)),
    Format(bits=8, depth=8, true_colour=False, maxima=(7, 7, 3), shifts=(5, 2, 0)),
]


def shows(client: Client, screen: FakeScreen) -> bool:
    return client.canvas == [client.format.value(colour) for colour in screen.colours()]


def follow(client: Client, screen: FakeScreen) -> None:
    """Ask for updates until the client shows the screen; the test's time limit ends a wait in vain."""
    while not shows(client, screen):
        client.request(incremental=True)
        client.update()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("encoding", [RAW, ZRLE, TIGHT])
def test_every_format_in_every_encoding_shows_the_screen(stage: Make, form: Format, encoding: int) -> None:
    made = stage(screen=FakeScreen(200, 150))
    client = made.client(encoding)
    client.set_format(form)
    client.request()
    assert {rectangle.encoding for rectangle in client.update()} == {encoding}
    assert shows(client, made.screen)
    made.screen.fill((10, 20, 150, 90), 0x4080FF)
    client.request(incremental=True)
    client.update()
    assert shows(client, made.screen)


def test_a_viewer_without_true_colour_knows_its_colours(stage: Make) -> None:
    made = stage()
    client = made.client()
    client.set_format(FORMATS[-1])
    made.screen.fill((0, 0, 100, 70), 0xFF0055)
    client.request()
    client.update()
    assert client.colour_map[client.canvas[0] or 0] == (0xFFFF, 0, 0x5555)


def test_streams_go_on_over_many_updates(stage: Make) -> None:
    made = stage()
    clients = [made.client(ZRLE, -256), made.client(TIGHT, -247), made.client(RAW)]
    for step in range(20):
        made.screen.fill((step, step, 60 - step, 30), step * 0x030507)
        for client in clients:
            client.request(incremental=True)
            client.update()
            assert shows(client, made.screen)


@pytest.mark.parametrize(
    ("wishes", "encoding"),
    [((ZRLE, TIGHT, RAW), ZRLE), ((1, 5, TIGHT, ZRLE), TIGHT), ((RAW, ZRLE), RAW), ((5, 2), RAW), ((), RAW)],
)
def test_the_viewers_first_wish_that_is_known_is_taken(
    stage: Make, wishes: tuple[int, ...], encoding: int
) -> None:
    client = stage().client()
    client.set_encodings(*wishes)
    client.request()
    assert {rectangle.encoding for rectangle in client.update()} == {encoding}


def test_only_what_was_asked_for_and_has_changed_is_sent(stage: Make) -> None:
    made = stage()
    client = made.client()
    client.request(area=(0, 0, 50, 70))
    assert [rectangle[:4] for rectangle in client.update()] == [(0, 0, 50, 70)]
    # The right half was never asked for, and comes when it is.
    client.request(incremental=True)
    assert [rectangle[:4] for rectangle in client.update()] == [(50, 0, 50, 70)]
    made.screen.fill((40, 10, 30, 20), 0x123456)
    client.request(incremental=True, area=(0, 0, 50, 70))
    assert [rectangle[:4] for rectangle in client.update()] == [(40, 10, 10, 20)]
    client.request(incremental=True)
    assert [rectangle[:4] for rectangle in client.update()] == [(50, 10, 20, 20)]
    client.request(area=(7, 8, 9, 10))
    assert [rectangle[:4] for rectangle in client.update()] == [(7, 8, 9, 10)]


def test_an_update_comes_when_something_changes_and_not_before(stage: Make) -> None:
    made = stage()
    client = made.client()
    client.request()
    client.update()
    client.request(incremental=True)
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.receive(1)
    client.socket.settimeout(10)
    made.screen.fill((1, 2, 3, 4), 0xFFFFFF)
    assert client.update() == [Rectangle(1, 2, 3, 4, RAW, b"\xff\xff\xff\0" * 12)]


def test_nobody_looks_at_the_screen_unless_a_viewer_waits(stage: Make) -> None:
    made = stage()
    client = made.client()
    client.request()
    client.update()
    looks = made.screen.looks
    time.sleep(0.3)
    assert made.screen.looks == looks
    client.close()
    time.sleep(0.2)
    assert made.screen.looks == looks


def test_a_screen_that_rests_is_looked_at_rarely(stage: Make) -> None:
    made = stage()
    client = made.client()
    client.request()
    client.update()
    client.request(incremental=True)
    time.sleep(1.3)
    before = made.screen.looks
    time.sleep(5 * IDLE)
    # At 30 a second there would be 30.
    assert made.screen.looks - before <= 7


def test_a_flood_of_requests_gives_no_flood_of_updates(stage: Make) -> None:
    made = stage()
    client = made.client()
    started = time.monotonic()
    for _ in range(200):
        client.request()
    client.key(0x61, True)
    made.keyboard.wait(lambda events: len(events) == 1)
    assert made.screen.looks - 1 <= (time.monotonic() - started) * 30 + 2


def test_a_resized_screen_is_told_then_shown(stage: Make) -> None:
    made = stage()
    client = made.client(ZRLE, DESKTOP_SIZE)
    client.request()
    client.update()
    made.screen.resize(160, 45)
    client.request(incremental=True)
    assert client.update() == [Rectangle(0, 0, 160, 45, DESKTOP_SIZE)]
    client.request(incremental=True)
    client.update()
    assert shows(client, made.screen)


def test_extended_sizes_come_with_every_full_request_and_without_pixels(stage: Make) -> None:
    made = stage()
    client = made.client(ZRLE, DESKTOP_SIZE, EXTENDED_SIZE)
    screens = b"\1\0\0\0" + bytes(8) + b"\0\x64\0\x46" + bytes(4)
    for _ in range(2):
        client.request()
        assert client.update() == [Rectangle(0, 0, 100, 70, EXTENDED_SIZE, screens)]
    follow(client, made.screen)
    made.screen.resize(30, 90)
    client.request(incremental=True)
    (told,) = client.update()
    assert told[:5] == (0, 0, 30, 90, EXTENDED_SIZE)
    follow(client, made.screen)


def test_a_viewer_cannot_resize_the_screen(stage: Make) -> None:
    client = stage().client(ZRLE, EXTENDED_SIZE)
    client.send(b"\xfb\0\x03\x20\x02\x58\1\0" + bytes(16))
    (answer,) = client.update()
    assert answer[:5] == (1, 1, 100, 70, EXTENDED_SIZE)


def test_a_viewer_with_a_fixed_size_sees_what_fits(stage: Make) -> None:
    made = stage(screen=FakeScreen(20, 10))
    client = made.client(ZRLE)
    client.request()
    client.update()
    made.screen.resize(30, 5)
    client.request(incremental=True)
    client.update()
    colours = made.screen.colours()
    for y in range(10):
        row = client.canvas[20 * y : 20 * y + 20]
        assert row == (colours[30 * y : 30 * y + 20] if y < 5 else [0] * 20)


def test_the_cursor_is_an_arrow_or_nothing_as_the_screen_says(stage: Make) -> None:
    made = stage(screen=FakeScreen(arrow=True))
    client = made.client(RAW, CURSOR)
    client.set_format(Format(bits=16, depth=16, maxima=(31, 63, 31), shifts=(11, 5, 0)))
    client.request()
    cursor = client.update()[0]
    assert cursor[:5] == (0, 0, 12, 17, CURSOR)
    pixels, mask = cursor.data[: 12 * 17 * 2], cursor.data[12 * 17 * 2 :]
    assert mask[:6] == b"\x80\0\xc0\0\xe0\0"
    assert pixels[2 * 12 * 2 : 2 * 12 * 2 + 6] == b"\0\0\xff\xff\0\0"
    made.screen.arrow = False
    client.request(incremental=True)
    assert client.update() == [Rectangle(0, 0, 0, 0, CURSOR)]


def test_the_key_extension_is_told_once_for_each_wish(stage: Make) -> None:
    client = stage().client(RAW, QEMU_KEYS)
    client.request()
    assert [rectangle.encoding for rectangle in client.update()] == [QEMU_KEYS, RAW]
    client.request()
    assert [rectangle.encoding for rectangle in client.update()] == [RAW]


def test_keys_and_pointers_reach_the_guest_and_are_let_go_at_the_end(stage: Make) -> None:
    made = stage(layout="de")
    client = made.client()
    client.key(ord("y"), True)
    client.key(ord("y"), False)
    client.qemu_key(0xFF13, 0xC6, True)
    client.pointer(0b0000_0001, 30, 40)
    client.pointer(0b0001_0000, 5000, 69)
    made.pointer.wait(lambda events: len(events) == 2)
    client.close()
    events = made.pointer.wait(lambda events: len(events) == 3)
    assert events == [(30, 40, 100, 70, 1), (99, 69, 100, 70, 16), (99, 69, 100, 70, 0)]
    assert made.keyboard.wait(lambda events: len(events) == 4) == [
        (0x2C, True),
        (0x2C, False),
        (0xC6, True),
        (0xC6, False),
    ]


def test_a_clipboard_is_thrown_away(stage: Make) -> None:
    made = stage()
    client = made.client()
    client.send(b"\6\0\0\0" + (3_000_000).to_bytes(4, "big") + b"\4" * 3_000_000)
    client.key(0x61, True)
    assert made.keyboard.wait(lambda events: bool(events)) == [(0x1E, True)]


def test_a_slow_viewer_holds_up_nobody_and_misses_only_what_was_in_between(stage: Make) -> None:
    made = stage(screen=FakeScreen(300, 300))
    # Much more than both sockets hold, so that it stays with the server.
    slow, quick = Client(made.connect(receive_buffer=4096)), made.client(ZRLE)
    slow.handshake()
    slow.request()
    for step in range(10):
        made.screen.fill((step * 20, step * 20, 100, 100), 0x0B0D11 * step)
        quick.request(incremental=True)
        quick.update()
        slow.request(incremental=True)
    assert shows(quick, made.screen)
    slow.update()
    follow(slow, made.screen)


def test_many_viewers_come_and_go(stage: Make) -> None:
    made = stage()
    for _ in range(2):
        clients = [made.client(encoding) for encoding in (RAW, ZRLE, TIGHT) * 2]
        for client in clients:
            client.request()
        for client in clients:
            client.update()
            assert shows(client, made.screen)
            client.close()
    while made.server.connections:
        time.sleep(0.01)
    assert made.logged() == []
