"""Just enough MQTT 3.1.1 for thousands of clients in one process; the broker is trusted, nothing is sent again."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ = 0x10, 2, 3, 0x40, 0x82, 9, 0xC0

OnMessage = Callable[[str, bytes, bool], None]
"""Topic, payload, retained."""


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!H", len(raw)) + raw


def packet(head: int, body: bytes) -> bytes:
    left, length = len(body), bytearray()
    while True:
        left, digit = left >> 7, left & 0x7F
        length.append(digit | (0x80 if left else 0))
        if not left:
            return bytes([head]) + bytes(length) + body


class Client(asyncio.Protocol):
    """``joined`` resolves once the broker has accepted us and every subscription."""

    def __init__(
        self, client_id: str, subscriptions: list[str], on_message: OnMessage, will: tuple[str, bytes]
    ) -> None:
        self._id = client_id
        self._subscriptions = subscriptions
        self._on_message = on_message
        self._will = will
        self._buffer = b""
        self._mid = 0
        self._transport: asyncio.Transport | None = None
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        sock: Any = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        topic, payload = self._will
        flags = 0x80 | 0x02 | 0x04 | 0x08  # user name, clean session, will at QoS 1
        body = _text("MQTT") + bytes([4, flags]) + struct.pack("!H", 60)
        body += _text(self._id) + _text(topic) + struct.pack("!H", len(payload)) + payload + _text(self._id)
        transport.write(packet(CONNECT, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.joined.done():
            self.joined.set_exception(exc or ConnectionResetError("the broker ended the connection"))
        self._transport = None

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.write(b"\xe0\x00")
            self._transport.close()

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        if self._transport is None:
            return
        body = _text(topic)
        if qos:
            self._mid = self._mid % 0xFFFF + 1
            body += struct.pack("!H", self._mid)
        self._transport.write(packet(PUBLISH << 4 | qos << 1, body + payload))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        at = 0
        while (found := _next(buffer, at)) is not None:
            body, end = found
            self._handle(buffer[at], buffer[body:end])
            at = end
        self._buffer = buffer[at:]

    def _handle(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == PUBLISH:
            self._published(head, body)
        elif kind == CONNACK:
            self._accepted(body[1])
        elif kind == SUBACK and not self.joined.done():
            self.joined.set_result(None)

    def _accepted(self, code: int) -> None:
        if code:
            self.joined.set_exception(ConnectionRefusedError(f"CONNACK {code}"))
        elif self._transport is not None:
            wanted = b"".join(_text(pattern) + b"\x01" for pattern in self._subscriptions)
            self._transport.write(packet(SUBSCRIBE, b"\x00\x01" + wanted))

    def _published(self, head: int, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2])
        topic = body[2:end].decode()
        if head & 0x06:
            if self._transport is not None:
                self._transport.write(bytes([PUBACK, 2]) + body[end : end + 2])
            end += 2
        self._on_message(topic, body[end:], bool(head & 1))


def _next(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at ``at`` begins and ends; None when it is not whole yet."""
    length, shift, position = 0, 0, at + 1
    while position < len(buffer):
        digit = buffer[position]
        position += 1
        length |= (digit & 0x7F) << shift
        if not digit & 0x80:
            end = position + length
            return (position, end) if end <= len(buffer) else None
        shift += 7
    return None
