"""A network of one server, behind a stream socket: it answers ARP and pings, gives addresses by DHCP and
files by TFTP.

Sources: RFC 826 (ARP), 791 (IPv4), 792 (ICMP), 768 (UDP), 2131 and 2132 (DHCP), 1350, 2347 to 2349 (TFTP),
4861 (IPv6 routers); for option 175, iPXE's documentation of DHCP.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

SERVER_MAC: Final = bytes.fromhex("02 00 00 00 00 01")
BROADCAST_MAC: Final = b"\xff" * 6
SERVER: Final = bytes((10, 9, 8, 1))
CLIENT: Final = bytes((10, 9, 8, 2))
"""Addresses of the server, and of whoever asks for one."""
MASK: Final = bytes((255, 255, 255, 0))

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMP, _UDP, _ICMP6 = 1, 17, 58
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT = 133, 134
_LINK_LOCAL: Final = bytes.fromhex("fe80000000000000000000fffe000001")
_ALL_NODES_MAC: Final = bytes.fromhex("333300000001")
_ALL_NODES: Final = bytes.fromhex("ff020000000000000000000000000001")
_DHCP_SERVER, _DHCP_CLIENT, _TFTP = 67, 68, 69
_TRANSFER: Final = 40000
"""The server's port for all transfers: there is one client, which asks for one block at a time."""
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_COOKIE: Final = bytes.fromhex("63825363")


class Transfer(NamedTuple):
    """A file on its way by TFTP."""

    data: bytes
    block_size: int


class Frames:
    """Frames on a stream socket: each with its length in 4 bytes, big-endian, before it."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rwb")

    def send(self, frame: bytes) -> None:
        self._stream.write(struct.pack(">I", len(frame)) + frame)
        self._stream.flush()

    def receive(self) -> bytes | None:
        """The next frame; None: the other side has gone."""
        head = self._stream.read(4)
        if len(head) < 4:
            return None
        frame = self._stream.read(struct.unpack(">I", head)[0])
        return bytes(frame)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class PxeServer:
    """The server, on a thread of its own while a `with` block lasts. `vm_end` is the machine's socket.

    `files` are what TFTP gives; the first one is what DHCP says to boot.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.vm_end, self._own_end = socket.socketpair()
        self._frames = Frames(self._own_end)
        self._transfers: dict[int, Transfer] = {}
        self.requested: list[str] = []
        """The files that were asked for, in order."""
        self.offered_to: set[bytes] = set()
        """The hardware addresses that asked for an address."""
        self.pinged = 0
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vm_end.close()
        self._own_end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._own_end.close()

    def _serve(self) -> None:
        try:
            while (frame := self._frames.receive()) is not None:
                self._take(frame)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _take(self, frame: bytes) -> None:
        client, kind, packet = frame[6:12], struct.unpack_from(">H", frame, 12)[0], frame[14:]
        if kind == _ARP and packet[6:8] == b"\0\x01" and packet[24:28] == SERVER:
            answer = packet[:6] + b"\0\x02" + SERVER_MAC + SERVER + packet[8:18]
            self._frames.send(client + SERVER_MAC + struct.pack(">H", _ARP) + answer)
        elif kind == _IPV4:
            header = (packet[0] & 15) * 4
            payload = packet[header : struct.unpack_from(">H", packet, 2)[0]]
            if packet[9] == _ICMP and payload[0] == 8 and packet[16:20] == SERVER:
                self.pinged += 1
                echo = b"\0\0" + struct.pack(">H", checksum(b"\0\0\0\0" + payload[4:])) + payload[4:]
                self._send_ip(client, packet[12:16], _ICMP, echo)
            elif packet[9] == _UDP:
                source, target, length = struct.unpack_from(">HHH", payload)
                self._take_udp(client, packet[12:16], source, target, payload[8:length])

        elif kind == _IPV6 and packet[6] == _ICMP6 and packet[40] == _ROUTER_SOLICITATION:
            # There is no IPv6 here: who asked need not wait for more.
            advertisement = struct.pack(">BBHBBHII", _ROUTER_ADVERTISEMENT, 0, 0, 64, 0, 0, 0, 0)
            length = len(advertisement)
            pseudo = _LINK_LOCAL + _ALL_NODES + struct.pack(">II", length, _ICMP6)
            total = struct.pack(">H", checksum(pseudo + advertisement))
            header = struct.pack(">IHBB", 6 << 28, length, _ICMP6, 255) + _LINK_LOCAL + _ALL_NODES
            answer = header + advertisement[:2] + total + advertisement[4:]
            self._frames.send(_ALL_NODES_MAC + SERVER_MAC + struct.pack(">H", _IPV6) + answer)

    def _take_udp(self, client: bytes, address: bytes, source: int, target: int, data: bytes) -> None:
        if target == _DHCP_SERVER:
            self._dhcp(client, data)
        elif target == _TFTP and data[:2] == b"\0\x01":
            self._send_udp(client, address, _TRANSFER, source, self._open(source, data[2:]))
        elif target == _TRANSFER and data[:2] == b"\0\x04" and source in self._transfers:
            transfer = self._transfers[source]
            done = struct.unpack_from(">H", data, 2)[0] * transfer.block_size
            if done <= len(transfer.data):
                self._send_udp(client, address, _TRANSFER, source, _block(transfer, done))

    def _open(self, port: int, request: bytes) -> bytes:
        """Begin a transfer; return the first answer."""
        name, _, *words = [word.decode() for word in request.split(b"\0")[:-1]]
        self.requested.append(name)
        if name not in self.files:
            return b"\0\x05\0\x01no such file\0"
        asked = dict(zip(words[::2], words[1::2], strict=True))
        size = min(int(asked.get("blksize", 512)), 1400)
        self._transfers[port] = Transfer(self.files[name], size)
        values = {"blksize": str(size), "tsize": str(len(self.files[name]))}
        accepted = [word for key in asked if key in values for word in (key, values[key])]
        if not accepted:
            return _block(self._transfers[port], 0)
        return b"\0\x06" + b"".join(word.encode() + b"\0" for word in accepted)

    def _dhcp(self, client: bytes, data: bytes) -> None:
        options, at = {}, 240
        while data[at] != 255:
            if data[at]:
                options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
                at += 1 + data[at + 1]
            at += 1
        answer = {_DISCOVER: _OFFER, _REQUEST: _ACK}.get(options[53][0])
        if answer is None:
            return
        self.offered_to.add(client)
        given = {
            53: bytes((answer,)),
            54: SERVER,
            51: struct.pack(">I", 3600),
            1: MASK,
            # iPXE: do not wait for another server.
            175: bytes((176, 1, 1)),
        }
        head = struct.pack(">BBBB", 2, 1, 6, 0) + data[4:8] + bytes(4) + bytes(4) + CLIENT + SERVER + bytes(4)
        file = next(iter(self.files), "").encode()
        packed = b"".join(bytes((key, len(value))) + value for key, value in given.items())
        reply = head + data[28:44] + bytes(64) + file.ljust(128, b"\0") + _COOKIE + packed + b"\xff"
        self._send_udp(client, b"\xff" * 4, _DHCP_SERVER, _DHCP_CLIENT, reply)

    def _send_udp(self, client: bytes, address: bytes, source: int, target: int, data: bytes) -> None:
        self._send_ip(client, address, _UDP, struct.pack(">HHHH", source, target, 8 + len(data), 0) + data)

    def _send_ip(self, client: bytes, address: bytes, protocol: int, payload: bytes) -> None:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0)
        header += SERVER + address
        header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
        self._frames.send(client + SERVER_MAC + struct.pack(">H", _IPV4) + header + payload)


def _block(transfer: Transfer, start: int) -> bytes:
    """The data from `start` on, as TFTP sends it."""
    number = start // transfer.block_size + 1
    return b"\0\x03" + struct.pack(">H", number) + transfer.data[start : start + transfer.block_size]
