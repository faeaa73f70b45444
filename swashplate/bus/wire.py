"""The connection's bytes: a socket that reads what there is at once and writes what belongs together at once.

MQTT's messages are small, and paho reads each in three pieces and writes each by itself.
"""

from __future__ import annotations

import socket
import ssl

CONNECT_TIMEOUT_S = 5.0
READ_BYTES = 1 << 16
KEEP_BYTES = 1 << 16
"""How much is taken before the system has it: enough to put messages together, too little to hide a broker that stopped
reading."""

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BufferedSocket:
    """What paho needs of a socket. It never blocks once ``setblocking(False)`` was said."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._read = b""
        self._at = 0
        self._unsent = bytearray()

    @classmethod
    def connect(cls, host: str, port: int, tls: ssl.SSLContext | None) -> BufferedSocket:
        """Blocks, for ``CONNECT_TIMEOUT_S`` at most per step; raises ``OSError``."""
        sock = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
        try:
            # Without it the second of two small messages waits for the peer's delayed TCP acknowledgement: 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return cls(sock if tls is None else tls.wrap_socket(sock, server_hostname=host))
        except BaseException:
            sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def pending(self) -> int:
        """Bytes that are here already, of which no selector knows."""
        inside = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0
        return len(self._read) - self._at + inside

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    def recv(self, size: int) -> bytes:
        if self._at == len(self._read):
            if size >= READ_BYTES:
                return self._sock.recv(size)
            self._read, self._at = self._sock.recv(READ_BYTES), 0
        found = self._read[self._at : self._at + size]
        self._at += len(found)
        return found

    def send(self, data: bytes | bytearray) -> int:
        """How much was taken; ``flush`` sends it. Raises ``BlockingIOError`` when it can take nothing."""
        if len(self._unsent) + len(data) > KEEP_BYTES and not self.flush():
            raise BlockingIOError
        if len(data) > KEEP_BYTES:
            return self._sock.send(data)
        self._unsent += data
        return len(data)

    def flush(self) -> bool:
        """Send what was taken; False when the system does not take all of it now. Raises ``OSError``."""
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except _NOT_NOW:
                return False
            del self._unsent[:sent]
        return True

    def shutdown(self, how: int) -> None:
        """End the connection without a goodbye; whoever reads will notice."""
        self._sock.shutdown(how)

    def close(self) -> None:
        try:
            self.flush()
        except OSError:
            pass
        finally:
            self._sock.close()
