import random
import socket

import pytest

from swashplate.bus.wire import KEEP_BYTES, READ_BYTES, BufferedSocket


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    wire = BufferedSocket(ours)
    wire.setblocking(False)
    with theirs:
        yield wire, theirs
        wire.close()


def test_small_pieces_are_sent_together_and_in_order_with_large_ones(ends):
    wire, peer = ends
    assert wire.send(b"a") + wire.send(b"bc") == 3
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(10)
    assert wire.unsent
    large = b"x" * (KEEP_BYTES + 1)
    taken = wire.send(large)
    assert wire.flush()
    assert not wire.unsent
    peer.setblocking(True)
    assert peer.recv(3) == b"abc"
    received = b""
    while len(received) < taken:
        received += peer.recv(1 << 20)
    assert received == large[:taken]


def test_of_what_the_peer_does_not_read_only_a_little_is_taken_and_all_of_that_arrives(ends):
    wire, peer = ends
    random_bytes = random.Random(1).randbytes
    taken = bytearray()
    with pytest.raises(BlockingIOError):
        while len(taken) < 1 << 26:
            piece = random_bytes(10_000)
            taken += piece[: wire.send(piece)]
    assert len(taken) < 1 << 24
    received = bytearray()
    while len(received) < len(taken):
        received += peer.recv(1 << 20)
        wire.flush()
    assert received == taken
    assert wire.send(b"again") == 5


def test_what_came_at_once_is_told_of_until_it_is_read(ends):
    wire, peer = ends
    peer.sendall(b"abcdef")
    assert wire.recv(1) == b"a"
    assert wire.pending() == 5
    assert wire.recv(10) == b"bcdef"
    assert wire.pending() == 0
    with pytest.raises(BlockingIOError):
        wire.recv(1)
    peer.sendall(b"y" * 100)
    assert wire.recv(READ_BYTES) == b"y" * 100
    peer.close()
    assert wire.recv(1) == b""


def test_closing_sends_what_was_taken(ends):
    wire, peer = ends
    wire.send(b"goodbye")
    wire.close()
    assert peer.recv(100) == b"goodbye"
    assert peer.recv(100) == b""
