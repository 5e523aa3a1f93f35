"""Messages of RFB clients, whole, in pieces and broken."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirt.display import messages
from wirt.display.messages import take_message
from wirt.display.region import Area
from wirt.display.stream import ProtocolError

EXAMPLES = [
    (b"\0\0\0\0" + bytes(range(16)), messages.SetPixelFormat(bytes(range(16)))),
    (struct.pack(">BxH3i", 2, 3, 16, -239, -308), messages.SetEncodings((16, -239, -308))),
    (struct.pack(">BxH", 2, 0), messages.SetEncodings(())),
    (struct.pack(">BB4H", 3, 1, 2, 3, 4, 5), messages.UpdateRequest(True, Area(2, 3, 4, 5))),
    (struct.pack(">BBxxI", 4, 1, 0xFF0D), messages.KeyEvent(True, 0xFF0D, 0)),
    (struct.pack(">BBHH", 5, 0x81, 640, 480), messages.PointerEvent(0x81, 640, 480)),
    (struct.pack(">BxxxI", 6, 9), messages.CutText(9)),
    (struct.pack(">BxHHBx16x", 251, 800, 600, 1), messages.SetDesktopSize(800, 600)),
    (struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1E), messages.KeyEvent(True, 0x61, 0x1E)),
]


@pytest.mark.parametrize(("data", "message"), EXAMPLES, ids=[str(message) for _, message in EXAMPLES])
def test_messages_are_taken_when_they_are_whole(data: bytes, message: messages.Message) -> None:
    for size in range(len(data)):
        received = bytearray(data[:size])
        assert take_message(received) is None
        assert received == data[:size]
    received = bytearray(data + b"\x04rest")
    assert take_message(received) == message
    assert received == b"\x04rest"


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"\x01", "unknown type 1"),
        (b"GET / HTTP/1.1", "unknown type 71"),
        (b"\xff\x01\0\0", "unknown type 255"),
        (struct.pack(">BxH", 2, 1025), "1025 encodings"),
        (struct.pack(">BxxxI", 6, (16 << 20) + 1), "clipboard of 16777217 bytes"),
        (struct.pack(">BxxxI", 6, 0xFFFFFFFF), "clipboard of 4294967295 bytes"),
    ],
)
def test_what_is_no_message_is_refused_before_it_is_collected(data: bytes, wrong: str) -> None:
    with pytest.raises(ProtocolError, match=wrong):
        take_message(bytearray(data))


@given(st.binary(max_size=80))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    received = bytearray(data)
    try:
        while received and (before := len(received)) and take_message(received):
            assert len(received) < before
    except ProtocolError:
        pass
