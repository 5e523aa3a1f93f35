from __future__ import annotations

import gzip
import struct

import pytest

from unit.machine.kernels import cpio
from wirt.machine.boot.image import BootError, open_image
from wirt.machine.boot.initrd import check_complete

PLAIN = cpio({"init": bytes(range(256)) * 20, "etc/fstab": b"none"})


def zstd_raw(data: bytes, *, checksum: bool = False) -> bytes:
    """A zstd frame of uncompressed blocks with a 4-byte content size."""
    frame = (
        b"\x28\xb5\x2f\xfd" + bytes([0x80 | (4 if checksum else 0), 0x58]) + len(data).to_bytes(4, "little")
    )
    pieces = [data[i : i + 1000] for i in range(0, len(data), 1000)]
    for piece in pieces:
        frame += (len(piece) << 3 | (piece is pieces[-1])).to_bytes(3, "little") + piece
    return frame + (b"sum!" if checksum else b"")


def lz4_legacy(*blocks: bytes) -> bytes:
    """The framing of `lz4 -l`; the blocks' contents do not matter here."""
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(b)) + b for b in blocks)


def check(data: bytes) -> None:
    with open_image(data, "initrd") as image:
        check_complete(image)


COMPLETE = {
    "cpio": PLAIN,
    "cpio and padding": PLAIN + bytes(512),
    "cpio without padding": PLAIN.rstrip(b"\0") + b"\0",
    "gzip": gzip.compress(PLAIN),
    "zstd": zstd_raw(PLAIN),
    "zstd with checksum": zstd_raw(PLAIN, checksum=True),
    "lz4": lz4_legacy(b"\x01" * 3000, b"\x02" * 700),
    "microcode and zstd": PLAIN + bytes(1024) + zstd_raw(PLAIN),
    "zstd and unaligned cpio": zstd_raw(b"odd") + PLAIN.rstrip(b"\0") + b"\0",
    "lz4 and cpio": lz4_legacy(b"\x01" * 3000) + PLAIN,
}


@pytest.mark.parametrize("data", COMPLETE.values(), ids=COMPLETE.keys())
def test_complete_archives_are_taken(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:3000],
        PLAIN[:150],
        PLAIN[:115],
        PLAIN + PLAIN[:3000],
        gzip.compress(PLAIN)[:-1],
        gzip.compress(PLAIN)[:-9],
        zstd_raw(PLAIN)[:-1],
        zstd_raw(PLAIN)[:8],
        zstd_raw(PLAIN, checksum=True)[:-1],
        lz4_legacy(b"\x01" * 3000)[:-1],
        PLAIN + bytes(1024) + zstd_raw(PLAIN)[:-1],
        zstd_raw(b"odd") + PLAIN[:3000],
    ],
)
def test_archive_that_ends_within_a_part_is_refused(data: bytes) -> None:
    with pytest.raises(BootError, match="initrd is truncated"):
        check(data)


@pytest.mark.parametrize(
    "data",
    [b"NR_CPUS=4\n", b"\xfd7zXZ\0 cut short", b"BZh91AY", bytes(5000), b"070701" + b"zz" * 60, b"0"],
    ids=["text", "xz", "bzip2", "zeros", "no cpio after all", "one byte"],
)
def test_unknown_contents_are_taken_as_they_are(data: bytes) -> None:
    check(data)


def test_archive_of_endless_members_does_not_take_endless_time() -> None:
    member = cpio({"x": b""}, trailer=False)
    check(member * 100_000 + cpio({"init": b"x" * 100})[:150])


def test_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    check(bomb[:-100])
