"""Debian binary packages: an `ar` archive that holds a compressed tar archive of the package's files.

Source: deb(5). Packages come here with a signature checked by apt; they are still read as if they were
hostile: nothing is written to disk, only wanted regular files are read, and every size is bounded.
"""

import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

import zstandard

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_MAX_UNPACKED = 2 << 30
_MAX_DICTIONARY = 128 << 20
_CHUNK = 1 << 20


class DebError(ValueError):
    """A package is damaged or has a form that is not understood. The message is one sentence."""


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def extract(deb: Path, wanted: Callable[[str], bool], limit: int) -> dict[str, bytes]:
    """Return the regular files of the package `deb` for whose name `wanted` answers true.

    Names are relative to the root, as in `usr/bin/env`. `limit` bounds the bytes of all files together.
    Raises DebError for a damaged package and OSError if it cannot be read.
    """
    files: dict[str, bytes] = {}
    room = limit
    with deb.open("rb") as stream:
        compression, member = _data_member(stream, deb.name)
        try:
            unpacked = _Bounded(_decompressed(compression, member, deb.name), _MAX_UNPACKED)
            with tarfile.open(fileobj=cast(IO[bytes], unpacked), mode="r|") as tar:
                for info in tar:
                    name = info.name.removeprefix("./")
                    if not info.isreg() or not wanted(name):
                        continue
                    room -= info.size
                    if room < 0:
                        raise DebError(f"{deb.name} unpacks to more than {limit} bytes of wanted files.")
                    content = tar.extractfile(info)
                    files[name] = content.read() if content else b""
        except (tarfile.TarError, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
            raise DebError(f"{deb.name} is damaged: {error}.") from error
    return files


def _data_member(stream: IO[bytes], name: str) -> tuple[str, "_Bounded"]:
    """Find `data.tar.*` in the `ar` archive; return its suffix and a reader of its bytes."""
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise DebError(f"{name} is not a Debian package.")
    while len(header := stream.read(_AR_HEADER)) == _AR_HEADER:
        size_field = header[48:58].strip()
        if header[58:] != b"`\n" or not size_field.isdigit():
            raise DebError(f"{name} is damaged: a member's header makes no sense.")
        size = int(size_field)
        member = header[:16].rstrip(b" /")
        if member.startswith(b"data.tar"):
            return member.removeprefix(b"data.tar").decode("ascii", "replace"), _Bounded(stream, size)
        stream.seek(size + size % 2, 1)
    raise DebError(f"{name} is damaged: it holds no data.tar.")


def _decompressed(suffix: str, member: "_Bounded", name: str) -> _Reader:
    match suffix:
        case "":
            return member
        case ".xz":
            return _XzReader(member)
        case ".zst":
            return zstandard.ZstdDecompressor(max_window_size=_MAX_DICTIONARY).stream_reader(
                cast(IO[bytes], member)
            )
        case _:
            raise DebError(f"{name} is compressed in a way that is not understood: data.tar{suffix}.")


class _XzReader:
    """A reader of xz data whose memory is bounded, which `lzma.LZMAFile` cannot promise."""

    def __init__(self, source: _Reader) -> None:
        self._source = source
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_DICTIONARY)

    def read(self, size: int, /) -> bytes:
        while not self._decompressor.eof:
            compressed = self._source.read(_CHUNK) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not compressed:
                raise EOFError("the compressed data ends too early")
            data = self._decompressor.decompress(compressed, size)
            if data:
                return data
        return b""


class _Bounded:
    """A reader that ends after `size` bytes."""

    def __init__(self, source: _Reader, size: int) -> None:
        self._source = source
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._source.read(wanted)
        self._left -= len(data)
        return data
