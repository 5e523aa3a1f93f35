"""Pictures of a screen."""

import struct
import zlib

import pytest

import wirt
from wirt.vm.screen import png


def test_png_of_four_pixels() -> None:
    """Red, green; blue, white."""
    pixels = struct.pack("<4I", 0xFF0000, 0x00FF00, 0x0000FF, 0xFFFFFF)
    data = png(2, 2, pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks = {}
    at = 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    assert zlib.decompress(chunks[b"IDAT"]) == bytes.fromhex("00 ff0000 00ff00 00 0000ff ffffff")


def test_a_machine_without_a_card_has_no_screen() -> None:
    with wirt.VM(accel="recompiler") as vm:
        assert not vm.screen.present
        for look in (vm.screen.png, vm.screen.text, vm.screen.open_frame):
            with pytest.raises(wirt.Error, match="has no screen"):
                look()


def test_a_screen_that_shows_nothing_is_waited_for_in_vain() -> None:
    vm = wirt.VM(vga=True, accel="recompiler")
    with vm, pytest.raises(wirt.WaitTimeout, match="did not show 'x'"):
        vm.screen.wait_for("x", timeout=0.2)
