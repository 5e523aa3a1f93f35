from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wirt.vm.frames import FrameReader

NONCE = "0123abcd"


def frame(output: bytes, status: int) -> bytes:
    begin = b"\x1e@@WIRT-BEGIN %s\n" % NONCE.encode()
    return begin + output + b"\x1e@@WIRT-END %s %d\n" % (NONCE.encode(), status)


@given(
    st.binary(max_size=200),
    st.binary(max_size=200).filter(lambda noise: b"\x1e" not in noise),
    st.binary(max_size=40),
    st.integers(min_value=0, max_value=255),
    st.lists(st.integers(min_value=1, max_value=40), max_size=40),
)
def test_output_is_found_however_it_arrives(
    output: bytes, noise: bytes, later: bytes, status: int, pieces: list[int]
) -> None:
    reader = FrameReader(NONCE)
    stream = noise + frame(output, status) + later
    found = b""
    for size in pieces:
        found += reader.feed(stream[:size])
        stream = stream[size:]
    found += reader.feed(stream)
    assert (found, reader.status) == (output, status)
    assert later.startswith(reader.rest)


def test_frames_of_another_nonce_are_output() -> None:
    reader = FrameReader(NONCE)
    forged = b"\x1e@@WIRT-END 00000000 0\n"
    assert reader.feed(frame(forged, 7)) == forged
    assert reader.status == 7


def test_what_came_with_the_end_is_not_lost() -> None:
    reader = FrameReader(NONCE)
    assert reader.feed(frame(b"output", 0) + b"tiny:/# ") == b"output"
    assert reader.rest == b"tiny:/# "


def test_output_comes_before_the_end_does() -> None:
    reader = FrameReader(NONCE)
    assert reader.feed(frame(b"x" * 1000, 0)[:500]) != b""
    assert reader.status is None
