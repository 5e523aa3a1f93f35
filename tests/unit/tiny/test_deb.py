import io
import lzma
import tarfile
from pathlib import Path

import pytest
import zstandard

from wirt.machine.tiny import deb

COMPRESS = {"": bytes, ".xz": lzma.compress, ".zst": zstandard.compress}


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def package(directory: Path, data: bytes, suffix: str = "") -> Path:
    path = directory / "some.deb"
    members = (
        ar_member("debian-binary", b"2.0\n")
        + ar_member("control.tar", b"odd")
        + ar_member(f"data.tar{suffix}", data)
    )
    path.write_bytes(b"!<arch>\n" + members)
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
def test_extract_returns_wanted_files(tmp_path: Path, suffix: str) -> None:
    data = tar_of(("./bin/busybox", tarfile.REGTYPE, b"x" * 5000), ("./etc/other", tarfile.REGTYPE, b"y"))
    path = package(tmp_path, COMPRESS[suffix](data), suffix)
    assert deb.extract(path, "bin/busybox".__eq__, 5000) == {"bin/busybox": b"x" * 5000}


def test_extract_takes_no_links_and_writes_nothing(tmp_path: Path) -> None:
    data = tar_of(
        ("./a", tarfile.SYMTYPE, b"/etc/passwd"),
        ("./b", tarfile.LNKTYPE, b"/etc/passwd"),
        ("./../escaped", tarfile.REGTYPE, b"1"),
        ("/absolute", tarfile.REGTYPE, b"2"),
    )
    path = package(tmp_path, data)
    assert deb.extract(path, lambda name: True, 100) == {"../escaped": b"1", "/absolute": b"2"}
    assert list(tmp_path.iterdir()) == [path]


def test_extract_refuses_more_than_the_limit(tmp_path: Path) -> None:
    path = package(tmp_path, lzma.compress(tar_of(("./zeros", tarfile.REGTYPE, bytes(1 << 20)))), ".xz")
    with pytest.raises(deb.DebError, match="more than 1000 bytes"):
        deb.extract(path, lambda name: True, 1000)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_extract_reports_every_truncation(tmp_path: Path, suffix: str) -> None:
    whole = package(
        tmp_path, COMPRESS[suffix](tar_of(("./file", tarfile.REGTYPE, bytes(range(256)) * 8))), suffix
    ).read_bytes()
    path = tmp_path / "short.deb"
    for size in range(0, len(whole) - (1024 * 8 if suffix == "" else 64), 61):
        path.write_bytes(whole[:size])
        with pytest.raises(deb.DebError, match=r"short\.deb"):
            deb.extract(path, lambda name: True, 1 << 20)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\3\4", "is not a Debian package"),
        (b"!<arch>\n" + b"x" * 60, "header makes no sense"),
        (b"!<arch>\n" + ar_member("data.tar.rar", b""), "compressed in a way"),
        (b"!<arch>\n" + ar_member("control.tar", b"abc"), "holds no data.tar"),
        (b"!<arch>\n" + ar_member("data.tar.xz", b"not xz at all"), "is damaged"),
        (b"!<arch>\n" + ar_member("data.tar.zst", b"not zstd at all"), "is damaged"),
    ],
)
def test_extract_names_what_is_wrong(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "bad.deb"
    path.write_bytes(content)
    with pytest.raises(deb.DebError, match=sentence):
        deb.extract(path, lambda name: True, 1000)
