"""JSON texts out of a stream of anything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirt.vm.monitor.splitter import MOST_BYTES, MOST_DEPTH, Malformed, Splitter


def split(*pieces: bytes) -> list[bytes | str]:
    """What comes out of a stream: texts, and "!" for what is malformed."""
    splitter = Splitter()
    found: list[bytes | str] = []
    for piece in pieces:
        splitter.feed(piece)
        while True:
            try:
                text = splitter.take()
            except Malformed:
                found.append("!")
                continue
            if text is None:
                break
            found.append(text)
    return found


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"", []),
        (b" \t\r\n", []),
        (b'{"a": 1}', [b'{"a": 1}']),
        (b'{"a": 1}{"b": 2}\r\n[3]', [b'{"a": 1}', b'{"b": 2}', b"[3]"]),
        (b'{\n "a":\n [{"}": "]\\"}"}] }\n', [b'{\n "a":\n [{"}": "]\\"}"}] }']),
        (b'{"a\\\\"}', [b'{"a\\\\"}']),
        (b'{"unfinished": ', []),
        (b"hello {}\n{}", ["!", b"{}"]),
        (b"1\n{}", ["!", b"{}"]),
        (b'"x"\n{}', ["!", b"{}"]),
        (b"}\n{}", ["!", b"{}"]),
        # The types of brackets are the parser's matter.
        (b"{]{}", [b"{]", b"{}"]),
        (b'{"a\xff{}', ["!", b"{}"]),
        (b'{"a\n{}', ["!", b"{}"]),
        (b"{\x00{}", ["!", b"{}"]),
        (b"\xff{}", ["!", b"{}"]),
        (b"\x01\x02{}", ["!", "!", b"{}"]),
        (b"hello\xff{}", ["!", b"{}"]),
        (b"{" * (MOST_DEPTH + 1) + b"{}\n{}", ["!", b"{}"]),
        (b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, [b"[" * MOST_DEPTH + b"]" * MOST_DEPTH]),
    ],
)
def test_texts_are_cut_out_whatever_the_pieces_are(stream: bytes, found: list[bytes | str]) -> None:
    assert split(stream) == found
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == found


def test_an_endless_text_is_refused_and_not_kept() -> None:
    splitter = Splitter()
    refused = 0
    for _ in range(100):
        splitter.feed(b'{"' + b"a" * (MOST_BYTES // 4))
        try:
            assert splitter.take() is None
        except Malformed:
            refused += 1
        assert len(splitter._bytes) <= 2 * MOST_BYTES
    assert refused == 1
    splitter.feed(b"\n{}")
    assert splitter.take() == b"{}"


def test_a_text_of_the_largest_size_is_taken() -> None:
    text = b'{"a": "' + b"x" * (MOST_BYTES - 9) + b'"}'
    assert len(text) == MOST_BYTES
    assert split(text, b"{}") == [text, b"{}"]
    assert split(text[:-2] + b'x"}', b"\n{}") == ["!", b"{}"]


OBJECTS = st.lists(
    st.dictionaries(
        st.text(max_size=5), st.none() | st.text() | st.lists(st.booleans() | st.text(max_size=5))
    ),
    max_size=4,
)


@settings(deadline=None)
@given(OBJECTS, st.data())
def test_objects_come_out_as_they_went_in(objects: list[dict[str, object]], data: st.DataObject) -> None:
    stream = b"".join(json.dumps(each, ensure_ascii=False).encode() for each in objects)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = split(*pieces)
    assert [json.loads(text) for text in found] == objects


@settings(deadline=None)
@given(st.lists(st.binary() | st.sampled_from([b"{", b"}", b'"', b"\\", b"\n", b"\xff"]), max_size=40))
def test_nothing_breaks_it(pieces: list[bytes]) -> None:
    split(*pieces)
    # Whatever came, this brings it back.
    assert split(*pieces, b"\xff\n\xff", b'{"a": 1}')[-1] == b'{"a": 1}'
