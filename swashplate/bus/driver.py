"""paho without its thread: the event loop connects, reads, writes and keeps the connection alive.

A thread would have to wait for the loop, and the loop for it, several times per message. Only what blocks, connecting, is
done elsewhere; paho is touched by the loop's thread alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho

from swashplate.bus.address import BrokerAddress
from swashplate.bus.link import STEADY_S, Backoff
from swashplate.bus.wire import BufferedSocket

LOOK_AFTER_S = 1.0
GOODBYE_S = 1.0


class Client(paho.Client):
    """Takes the connection that it is given, instead of making one."""

    prepared: BufferedSocket | None = None

    def _create_socket(self) -> Any:
        prepared, self.prepared = self.prepared, None
        if prepared is None:
            raise ConnectionError("no connection was prepared")
        return prepared


class Driver:
    """Keeps ``client`` connected until it is closed. What happens is told by the client's own callbacks."""

    def __init__(self, client: Client, address: BrokerAddress, *, keep_alive: int) -> None:
        self._client = client
        self._address = address
        self._tls: ssl.SSLContext | None = address.tls_context() if address.tls else None
        self._backoff = Backoff()
        self._sock: BufferedSocket | None = None
        self._ended: asyncio.Future[None] | None = None
        self._flushing = False
        self._waiting = False
        """Does the loop tell us when the socket can be written?"""
        self.on_unreachable: Callable[[Exception], Any] = lambda _error: None
        # Only remembers where; it is never used to connect.
        client.connect_async(address.host, address.port, keepalive=keep_alive)
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._wants_to_write

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = self._loop.create_task(self._run(), name="bus:connection")

    async def close(self) -> None:
        """Say goodbye, and what was to be said before; the broker has ``GOODBYE_S`` seconds to take it."""
        self._client.disconnect()
        self._flush()
        if self._ended is not None:
            await asyncio.wait([self._ended], timeout=GOODBYE_S)
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        if self._sock is not None:
            self._forget(self._sock)

    def cut(self) -> None:
        """End the connection without a goodbye, and make a new one."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    async def _run(self) -> None:
        while True:
            try:
                sock = await self._connect()
            except (OSError, ValueError) as error:
                self.on_unreachable(error)
            else:
                began = time.monotonic()
                await self._drive(sock)
                if time.monotonic() - began >= STEADY_S:
                    self._backoff.worked()
            await asyncio.sleep(self._backoff.failed())

    async def _connect(self) -> BufferedSocket:
        where = self._address
        connecting = self._loop.run_in_executor(None, BufferedSocket.connect, where.host, where.port, self._tls)
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_unwanted)
            raise

    async def _drive(self, sock: BufferedSocket) -> None:
        """Until the connection ends."""
        self._ended = self._loop.create_future()
        self._sock = self._client.prepared = sock
        self._client.reconnect()
        self._loop.add_reader(sock.fileno(), self._readable)
        try:
            while not self._ended.done():
                await asyncio.wait([self._ended], timeout=LOOK_AFTER_S)
                self._client.loop_misc()
        finally:
            self._ended = None

    def _readable(self) -> None:
        sock = self._sock
        while sock is not None and sock is self._sock:
            self._client.loop_read()
            if not sock.pending():
                break

    def _wants_to_write(self, *_: Any) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Everything that was published in this turn of the loop goes out together."""
        self._flushing = False
        sock = self._sock
        if sock is None:
            return
        self._client.loop_write()
        try:
            done = sock is not self._sock or sock.flush()
        except OSError:
            self.cut()  # the reader notices and says so
            return
        if sock is self._sock:
            self._wait_for_room(sock, wait=not done or self._client.want_write())

    def _wait_for_room(self, sock: BufferedSocket, *, wait: bool) -> None:
        if wait and not self._waiting:
            self._loop.add_writer(sock.fileno(), self._flush)
        elif self._waiting and not wait:
            self._loop.remove_writer(sock.fileno())
        self._waiting = wait

    def _closed(self, _: Any, __: Any, sock: Any) -> None:
        """Called by paho, which is about to close it."""
        self._forget(sock)

    def _forget(self, sock: BufferedSocket) -> None:
        if sock is not self._sock:
            return
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        self._sock, self._waiting = None, False
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def _unwanted(connecting: asyncio.Future[BufferedSocket]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
