"""RFB in a WebSocket, for viewers in browsers. RFC 6455, by the library websockets."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from wirt.display.stream import Disconnected, ProtocolError, Stream

_BINARY: Final = Subprotocol("binary")
_LARGEST: Final = 1 << 20
"""Bytes of a message."""
_HERE: Final = ("localhost", "127.0.0.1", "::1")
_FORBIDDEN: Final = 403


class WebSocket(Stream):
    """A stream whose bytes are the payload of binary messages, wherever these begin and end."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._protocol = ServerProtocol(
            subprotocols=[_BINARY], select_subprotocol=_subprotocol, max_size=_LARGEST, extensions=None
        )
        self._request: Request | None = None

    def accept(self, token: str | None, open_to_all: bool, deadline: float) -> bool:
        """Answer the request; return whether it brought the `token` that is asked for.

        Without a token it is let in as a viewer without a browser is, and has to give a password if there is
        one. Where the screen is `open_to_all`, only pages of this machine are let in: other pages that a
        browser shows would have no business here, and nothing else would keep them out. Raises Disconnected,
        and ProtocolError for a request that is refused or makes no sense.
        """
        while self._request is None:
            self._pump_until(deadline)
        request = self._request
        given = parse_qs(request.path.partition("?")[2]).get("token")
        refusal = None
        proved = token is not None and given is not None and _same(given[0], token)
        if given and not proved:
            refusal = "brought a wrong token"
        elif open_to_all and not _from_here(request.headers):
            refusal = "is a page of another machine, and this screen has neither password nor token"
        if refusal:
            self._protocol.send_response(self._protocol.reject(_FORBIDDEN, "This screen is not for you.\n"))
        else:
            self._protocol.send_response(self._protocol.accept(request))
        self._collect()
        self._flush()
        if refusal or self._protocol.handshake_exc is not None:
            self.drain(deadline)
            raise ProtocolError(refusal or "sent a request that is none of a WebSocket")
        return proved

    def _queue(self, data: bytes | bytearray) -> None:
        self._protocol.send_binary(data)
        self._collect()

    def _arrived(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._request = event
            elif isinstance(event, Frame):
                self._take_frame(event)
        self._collect()
        self._flush()
        if self._protocol.close_expected():
            raise Disconnected

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "RFB is bytes")
            self._collect()
            self._flush()
            raise ProtocolError("sent text in place of bytes")
        if frame.opcode in (Opcode.BINARY, Opcode.CONT):
            self.received += frame.data

    def _collect(self) -> None:
        for data in self._protocol.data_to_send():
            self._unsent += data


def _subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Some viewers ask for "binary", others for nothing."""
    return _BINARY if _BINARY in offered else None


def _same(one: str, other: str) -> bool:
    """Compare in a time that says nothing. A request may hold characters that are none."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))


def _from_here(headers: Headers) -> bool:
    """Whether the page is one of this machine, or it is none: programs send no Origin."""
    try:
        return all(urlsplit(origin).hostname in _HERE for origin in headers.get_all("Origin"))
    except ValueError:
        return False
