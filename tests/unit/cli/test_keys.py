from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirt.cli.keys import Key, KeyFilter


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x03\x04\x1a\x1c", [b"\x03\x04\x1a\x1c"]),
        (b"\x01x", [Key.QUIT]),
        (b"a\x01xb", [b"a", Key.QUIT, b"b"]),
        (b"\x01h", [Key.HELP]),
        (b"\x01c", [Key.CONTINUE]),
        (b"\x01\x01", [b"\x01"]),
        (b"a\x01\x01x", [b"a\x01x"]),
        (b"\x01\x01\x01x", [b"\x01", Key.QUIT]),
        (b"\x01z", [Key.UNKNOWN]),
        (b"\x01", []),
        (b"", []),
    ],
)
def test_keys_after_ctrl_a_are_for_wirt(typed: bytes, parts: list[bytes | Key]) -> None:
    assert KeyFilter().feed(typed) == parts


def joined(parts: list[bytes | Key]) -> list[bytes | Key]:
    """Neighbouring bytes together."""
    result: list[bytes | Key] = []
    for part in parts:
        if result and isinstance(part, bytes) and isinstance(last := result[-1], bytes):
            result[-1] = last + part
        else:
            result.append(part)
    return result


@given(st.lists(st.sampled_from([b"\x01", b"x", b"h", b"z", b"\x00"])), st.lists(st.integers(0, 50)))
def test_pieces_of_any_size_mean_the_same(keys: list[bytes], cuts: list[int]) -> None:
    typed = b"".join(keys)
    bounds = sorted({0, len(typed), *(cut for cut in cuts if cut < len(typed))})
    filtered = KeyFilter()
    pieces = [typed[start:end] for start, end in pairwise(bounds)]
    parts = [part for piece in pieces for part in filtered.feed(piece)]
    assert joined(parts) == KeyFilter().feed(typed)
