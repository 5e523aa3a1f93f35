"""The cpio archive is read back here by an independent reader of the newc form."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirt.machine.tiny import cpio

NAMES = st.text("abcdefgh.-_", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))


def read_newc(archive: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    entries, at = [], 0
    while at < len(archive):
        if archive[at] == 0:  # padding between two archives
            at += 1
            continue
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        name_end = at + 110 + fields[11]
        assert archive[name_end - 1] == 0
        data_start = name_end + -name_end % 4
        data_end = data_start + fields[6]
        name = archive[at + 110 : name_end - 1].decode()
        if name != "TRAILER!!!":
            entries.append((name, fields[1], archive[data_start:data_end], (fields[9], fields[10])))
        at = data_end + -data_end % 4
    return entries


@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=5))
def test_archive_holds_every_file_as_given(files: dict[str, bytes]) -> None:
    archive = cpio.archive(cpio.file(*item) for item in files.items())
    assert len(archive) % 4 == 0
    assert {name: data for name, _, data, _ in read_newc(archive)} == files


def test_archive_kinds_of_entries() -> None:
    archive = cpio.archive(
        [cpio.directory("d", 0o700), cpio.symlink("d/l", "../x"), cpio.character_device("d/c", 5, 1)]
    )
    assert read_newc(archive) == [
        ("d", stat.S_IFDIR | 0o700, b"", (0, 0)),
        ("d/l", stat.S_IFLNK | 0o777, b"../x", (0, 0)),
        ("d/c", stat.S_IFCHR | 0o600, b"", (5, 1)),
    ]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/"])
def test_archive_refuses_name_that_is_not_plainly_below_the_root(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        cpio.archive([cpio.file(name, b"")])


def test_append_files_aligns_and_makes_directories() -> None:
    initrd = b"odd"
    appended = cpio.append_files(initrd, {"wirt/a/exec": b"true"})
    assert appended.startswith(b"odd\x00" + b"070701")
    assert [entry[0] for entry in read_newc(appended[4:])] == ["wirt", "wirt/a", "wirt/a/exec"]
