"""A real broker, configured as provisioning configures it, and a small MQTT client to look at what arrives."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import paho.mqtt.client as mqtt
import pytest

from provision.brokers import MAX_PAYLOAD, Kind, Place, write_broker_files
from provision.credentials import Credentials
from provision.identity import access
from provision.identity.records import Records
from provision.identity.seeding import seed
from provision.local import provision_local
from tests.support.ports import free_port

PATIENCE = 10.0  # seconds until something that must happen counts as not happening


class Peer:
    """One MQTT connection. Nothing returns before the broker has answered."""

    def __init__(self, port: int, user: str, key: str, *, client_id: str = "", clean: bool = True) -> None:
        self.inbox: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self.disconnects: queue.Queue[object] = queue.Queue()
        self._connected: queue.Queue[tuple[bool, bool]] = queue.Queue()
        self._granted: queue.Queue[bool] = queue.Queue()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id or f"test-{os.urandom(6).hex()}", clean_session=clean
        )
        self._client.reconnect_delay_set(0.1, 1)  # how long a refused one takes to close
        if user:
            self._client.username_pw_set(user, key)
        self._client.on_message = lambda _c, _u, message: self.inbox.put(message)
        self._client.on_connect = lambda _c, _u, flags, code, _p: self._connected.put(
            (not code.is_failure, flags.session_present)
        )
        self._client.on_subscribe = lambda _c, _u, _m, codes, _p: self._granted.put(not codes[0].is_failure)
        self._client.on_disconnect = lambda _c, _u, _f, code, _p: self.disconnects.put(code)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.accepted, self.session_present = self._connected.get(timeout=PATIENCE)

    def subscribe(self, topic_filter: str, qos: int = 1) -> bool:
        """Return what the broker claims; whether anything arrives is another question."""
        self._client.subscribe(topic_filter, qos)
        return self._granted.get(timeout=PATIENCE)

    def publish(self, topic: str, payload: str | bytes, qos: int = 1, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE)

    def next(self) -> mqtt.MQTTMessage:
        return self.inbox.get(timeout=PATIENCE)

    def until(self, last: str) -> list[str]:
        """The payloads that arrive, up to and with ``last``."""
        seen = [self.next().payload.decode()]
        while seen[-1] != last:
            seen.append(self.next().payload.decode())
        return seen

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Broker:
    def __init__(self, kind: Kind, executable: str, folder: Path, credentials: Credentials, port: int) -> None:
        self.kind, self.credentials, self.port, self.log = kind, credentials, port, folder.with_suffix(".log")
        self._executable = executable
        self._config = folder / {Kind.EMBEDDED: "nats.conf", Kind.MOSQUITTO: "mosquitto.conf"}[kind]
        self._peers: list[Peer] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([self._executable, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the broker does not start:\n{self.log.read_text()}")
                time.sleep(0.005)

    def kept(self, payload: bytes) -> None:
        """Until ``payload`` is on the disk: mosquitto acknowledges a moment before."""
        if self.kind is Kind.EMBEDDED:
            return
        database = self._config.parent / "mosquitto" / "mosquitto.db"
        deadline = time.monotonic() + PATIENCE
        while not (database.exists() and payload in database.read_bytes()):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def connect(self, name: str, *, client_id: str = "", clean: bool = True) -> Peer:
        client = self.credentials.client(name)
        peer = self.connect_as(client.id, client.key, client_id=client_id, clean=clean)
        assert peer.accepted
        return peer

    def connect_as(self, user: str, key: str, *, client_id: str = "", clean: bool = True) -> Peer:
        peer = Peer(self.port, user, key, client_id=client_id, clean=clean)
        self._peers.append(peer)
        return peer

    def id(self, name: str) -> str:
        return self.credentials.client(name).id

    def disconnect(self) -> None:
        for peer in self._peers:
            peer.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()
        self.kill()


def prepared(
    kind: Kind,
    executable: str,
    folder: Path,
    *,
    env: str = "",
    legacy: bool = False,
    max_payload: int = MAX_PAYLOAD,
    ack_wait_s: int = 10,
) -> Broker:
    """Not yet started, with clients of its own. ``env`` is the text of an env file to begin with; the rest is for ``Place``."""
    env_file = folder / ".env"
    env_file.write_text(env)
    credentials, _ = provision_local(env_file, 2)
    records = Records()
    seed(records, credentials, "")
    place = Place(folder / "a broker", port=free_port(), max_payload=max_payload, ack_wait_s=ack_wait_s)
    write_broker_files(kind, access.users(records, legacy=legacy), place)
    return Broker(kind, executable, place.folder, credentials, place.port)
