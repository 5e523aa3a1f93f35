"""Does an initrd end in the middle? Found before the guest starts: inside, it is a panic without a reason.

An initramfs is any number of parts, each a cpio archive, plain or compressed, with zeros between them. The
parts are walked by the lengths they state; nothing is unpacked except small gzip parts, which state none.
What is not recognised (xz, bzip2, LZO, a file system) is taken as it is. Sources: the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst; RFC 1952; RFC 8878 section 3.1; the LZ4 frame
format's section on legacy frames.
"""

from __future__ import annotations

import zlib
from typing import Final

from wirt.machine.boot.image import CHUNK, BootError, Image

CPIO_HEADER_SIZE: Final = 110
CPIO_MAGICS: Final = (b"070701", b"070702")
GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
LZ4_LEGACY_MAGIC: Final = b"\x02\x21\x4c\x18"
LZ4_LEGACY_MAX_BLOCK: Final = (8 << 20) + (8 << 20) // 255 + 16

MAX_STEPS: Final = 1 << 16
"""Archive members and compressed blocks looked at; what comes after them is taken as it is."""
GZIP_MAX_SIZE: Final = 16 << 20
GZIP_MAX_UNPACKED: Final = 64 << 20
"""Larger gzip parts are taken as they are: unpacking them would delay the start."""


def check_complete(image: Image) -> None:
    """Raise BootError when a part of `image` states more bytes than the file has."""
    offset: int | None = 0
    steps = MAX_STEPS
    while offset is not None and offset < image.size and steps:
        magic = image.read(offset, min(6, image.size - offset))
        if magic[:1] == b"\0":
            offset = _skip_zeros(image, offset)
        elif magic in CPIO_MAGICS:
            offset = _cpio_member(image, offset)
        elif magic[:4] == ZSTD_MAGIC:
            offset, steps = _zstd_frame(image, offset, steps)
        elif magic[:4] == LZ4_LEGACY_MAGIC:
            offset, steps = _lz4_blocks(image, offset, steps)
        elif magic[:2] == GZIP_MAGIC:
            offset = _gzip_member(image, offset)
        else:
            offset = None
        steps = max(0, steps - 1)


def _incomplete(image: Image) -> BootError:
    return BootError(
        f"The {image.what} is truncated: it ends within an archive of {image.size} bytes; make it again."
    )


def _need(image: Image, offset: int, size: int) -> bytes:
    if offset + size > image.size:
        raise _incomplete(image)
    return image.read(offset, size)


def _skip_zeros(image: Image, offset: int) -> int:
    while offset < image.size:
        chunk = image.read(offset, min(CHUNK, image.size - offset))
        rest = chunk.lstrip(b"\0")
        offset += len(chunk) - len(rest)
        if rest:
            break
    return offset


def _cpio_member(image: Image, offset: int) -> int | None:
    header = _need(image, offset, CPIO_HEADER_SIZE)
    try:
        file_size = int(header[54:62], 16)
        name_size = int(header[94:102], 16)
    except ValueError:
        return None
    name_end = -(-(offset + CPIO_HEADER_SIZE + name_size) // 4) * 4
    end = name_end + file_size
    if end > image.size:
        raise _incomplete(image)
    # The padding after the last member may be missing.
    return min(-(-end // 4) * 4, image.size)


def _zstd_frame(image: Image, offset: int, steps: int) -> tuple[int | None, int]:
    descriptor = _need(image, offset + 4, 1)[0]
    single_segment = descriptor >> 5 & 1
    dictionary_id = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    offset += 5 + (1 - single_segment) + dictionary_id + content_size
    while steps:
        steps -= 1
        block = int.from_bytes(_need(image, offset, 3), "little")
        kind, size = block >> 1 & 3, block >> 3
        offset += 3 + (1 if kind == 1 else size)
        if offset > image.size:
            raise _incomplete(image)
        if block & 1:
            offset += 4 if descriptor & 4 else 0
            if offset > image.size:
                raise _incomplete(image)
            return offset, steps
    return None, 0


def _lz4_blocks(image: Image, offset: int, steps: int) -> tuple[int | None, int]:
    offset += 4
    while steps and image.size - offset >= 4:
        steps -= 1
        size = int.from_bytes(image.read(offset, 4), "little")
        if not 0 < size <= LZ4_LEGACY_MAX_BLOCK:
            return offset, steps
        offset += 4 + size
        if offset > image.size:
            raise _incomplete(image)
    return None, steps


def _gzip_member(image: Image, offset: int) -> int | None:
    if image.size - offset > GZIP_MAX_SIZE:
        return None
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    unpacked = 0
    for chunk in image.chunks(offset, image.size - offset):
        offset += len(chunk)
        while chunk and unpacked <= GZIP_MAX_UNPACKED:
            try:
                unpacked += len(inflate.decompress(chunk, CHUNK))
            except zlib.error:
                return None
            if inflate.eof:
                return offset - len(inflate.unused_data)
            chunk = inflate.unconsumed_tail
        if unpacked > GZIP_MAX_UNPACKED:
            return None
    raise _incomplete(image)
