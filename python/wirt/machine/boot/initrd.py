"""Does an initrd end in the middle? Found before the guest starts: inside, it is a panic without a reason.

An initramfs is any number of parts, each a cpio archive, plain or compressed, with zeros between them. The
parts are walked by the lengths they state; nothing is unpacked except one small gzip part, which states
none. What follows that, and what is not recognised (xz, bzip2, LZO, a file system), is taken as it is.
Sources: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst; RFC 1952; RFC 8878 section
3.1; the LZ4 frame format's section on legacy frames.
"""

from __future__ import annotations

import zlib
from typing import Final

from wirt.machine.boot.image import CHUNK, BootError, Image

CPIO_HEADER_SIZE: Final = 110
CPIO_MAX_NAME: Final = 4096
CPIO_MAGICS: Final = (b"070701", b"070702")
CPIO_TRAILER: Final = b"TRAILER!!!\0"
GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
LZ4_LEGACY_MAGIC: Final = b"\x02\x21\x4c\x18"
LZ4_LEGACY_MAX_BLOCK: Final = (8 << 20) + (8 << 20) // 255 + 16

ZEROS: Final = bytes(16 << 10)
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
        steps -= 1
        magic = image.read(offset, min(6, image.size - offset))
        if magic[:1] == b"\0":
            offset = _skip_zeros(image, offset)
        elif magic in CPIO_MAGICS:
            offset, steps = _cpio_members(image, offset, steps)
        elif magic[:4] == ZSTD_MAGIC:
            offset, steps = _zstd_frame(image, offset, steps)
        elif magic[:4] == LZ4_LEGACY_MAGIC:
            offset, steps = _lz4_blocks(image, offset, steps)
        elif magic[:2] == GZIP_MAGIC:
            _gzip_member(image, offset)
            offset = None
        else:
            offset = None


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
        chunk = image.read(offset, min(len(ZEROS), image.size - offset))
        # Comparing is much faster than looking for the first other byte.
        if chunk != ZEROS:
            rest = chunk.lstrip(b"\0")
            offset += len(chunk) - len(rest)
            if rest:
                break
        else:
            offset += len(chunk)
    return offset


def _cpio_members(image: Image, start: int, steps: int) -> tuple[int | None, int]:
    """Walk one archive; members are padded to 4 bytes from its `start`, except that the last may not be."""
    offset = start
    while steps and offset < image.size and image.read(offset, min(6, image.size - offset)) in CPIO_MAGICS:
        steps -= 1
        header = _need(image, offset, CPIO_HEADER_SIZE)
        try:
            file_size = int(header[54:62], 16)
            name_size = int(header[94:102], 16)
        except ValueError:
            return None, steps
        if file_size < 0 or not 0 < name_size <= CPIO_MAX_NAME:
            return None, steps
        name = _need(image, offset + CPIO_HEADER_SIZE, name_size)
        offset += CPIO_HEADER_SIZE + name_size
        offset += (start - offset) % 4
        if file_size and offset + file_size > image.size:
            raise _incomplete(image)
        offset += file_size
        offset += (start - offset) % 4
        if name == CPIO_TRAILER:
            break
    return offset, steps


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


def _gzip_member(image: Image, offset: int) -> None:
    if image.size - offset > GZIP_MAX_SIZE:
        return
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    unpacked = 0
    for chunk in image.chunks(offset, image.size - offset):
        while chunk:
            try:
                unpacked += len(inflate.decompress(chunk, CHUNK))
            except zlib.error:
                return
            if inflate.eof or unpacked > GZIP_MAX_UNPACKED:
                return
            chunk = inflate.unconsumed_tail
    raise _incomplete(image)
