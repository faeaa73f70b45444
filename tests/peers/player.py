"""Plays Propeller's side of a conversation with a real MQTT client, and checks every word of ours."""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.peers.conversation import Variables, difference, fill
from tests.support.broker import Peer
from tests.support.stack import poll

QOS = 2
PATIENCE = 30.0
"""Seconds for a process of ours to start on a busy machine, and then to answer."""


class Player:
    """``clients`` are its connections by name; what ours says arrives at the first."""

    def __init__(self, clients: dict[str, Peer], listens: list[str], variables: Variables, log: Callable[[], str]):
        self.clients = clients
        self.variables = variables
        self.site: Site | None = None
        self._log = log
        self._heard: dict[str, list[Any]] = defaultdict(list)
        self._ear = next(iter(clients.values()))
        for pattern in listens:
            assert self._ear.subscribe(pattern, QOS)

    def play(self, steps: list[dict[str, Any]]) -> None:
        for number, step in enumerate(steps):
            [(kind, what)] = step.items()
            try:
                getattr(self, kind)(what)
            except AssertionError as error:
                raise AssertionError(f"step {number}: {step}: {error}") from error
            except queue.Empty:
                raise AssertionError(f"step {number}: nothing came: {step}") from None

    def say(self, what: dict[str, Any]) -> None:
        payload = what["payload"]
        text = payload if isinstance(payload, str) else json.dumps(fill(payload, self.variables))
        speaker = self.clients[what["by"]] if "by" in what else self._speaker(what["topic"])
        speaker.publish(fill(what["topic"], self.variables), text, QOS)

    def hear(self, what: dict[str, Any]) -> None:
        message = self.next(fill(what["topic"], self.variables))
        problem = difference(what["payload"], json.loads(message.payload), self.variables)
        assert problem is None, problem
        assert message.qos == what.get("qos", QOS), f"QoS {message.qos}"
        assert not message.retain, "retained"

    def chunks(self, what: dict[str, Any]) -> None:
        binary: bytes = self.variables[what["binary"]]
        if "say" in what:
            self._say_chunks(fill(what["say"], self.variables), binary, what["size"])
            return
        image, pieces, total = fill(what["hear"], self.variables), {}, 1
        while len(pieces) < total:
            said = json.loads(self.next(fill("${base}/registry/server", self.variables)).payload)
            assert said.keys() == {"app_name", "chunk_idx", "total_chunks", "data"}, said.keys()
            if said["app_name"] == image:
                total = said["total_chunks"]
                pieces[said["chunk_idx"]] = base64.b64decode(said["data"], validate=True)
        assert sorted(pieces) == list(range(total))
        assert b"".join(pieces[index] for index in range(total)) == binary

    def _say_chunks(self, image: str, binary: bytes, size: int) -> None:
        """In an awkward order, with one of them twice, and with one of somebody else's binary between them."""
        pieces = [binary[at : at + size] for at in range(0, len(binary), size)]
        foreign = {"app_name": "somebody/else:v1", "chunk_idx": 0, "total_chunks": 9, "data": "AAAA"}
        said = [
            {"app_name": image, "chunk_idx": i, "total_chunks": len(pieces), "data": base64.b64encode(piece).decode()}
            for i, piece in enumerate(pieces)
        ]
        for chunk in (*reversed(said[1:]), foreign, *said[1:2], said[0]):
            self.say({"topic": "${base}/registry/server", "payload": chunk})

    def http(self, what: dict[str, Any]) -> None:
        request = {**what, "url": fill(what["url"], self.variables), "body": fill(what.get("body"), self.variables)}

        def problem() -> str | None:
            status, answer = call(request.get("method", "GET"), request["url"], request["body"])
            if status != request.get("status", 200):
                return f"{status} {answer}"
            return difference(request.get("answer", "<any>"), answer, self.variables)

        last: list[str | None] = []
        if request.get("until"):
            try:
                poll(lambda: last.append(problem()) or last[-1] is None, within=PATIENCE)
            except AssertionError:
                raise AssertionError(last[-1]) from None
        else:
            found = problem()
            assert found is None, found

    def asked(self, what: dict[str, Any]) -> None:
        assert self.site is not None
        path = fill(what["path"], self.variables)
        request = self.site.requests[path].get(timeout=PATIENCE)
        assert "X-Attempt-Token" not in request.headers
        problem = difference(what.get("body", "<any>"), request.body, self.variables)
        assert problem is None, problem

    def log(self, phrase: str) -> None:
        wanted = fill(phrase, self.variables)
        poll(lambda: wanted in self._log(), within=PATIENCE)

    def next(self, topic: str) -> Any:
        """The next message on this topic, whatever comes on others, which does not prolong the wait."""
        deadline = time.monotonic() + PATIENCE
        while not self._heard[topic]:
            message = self._ear.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            self._heard[message.topic].append(message)
        return self._heard[topic].pop(0)

    def left(self, topic: str) -> list[bytes]:
        """What has come on this topic and nobody wanted to hear."""
        while not self._ear.inbox.empty():
            message = self._ear.inbox.get()
            self._heard[message.topic].append(message)
        return [message.payload for message in self._heard[topic]]

    def _speaker(self, topic: str) -> Peer:
        """The proxy says what is the proxy's to say, when there is one."""
        return self.clients.get("proxy", self._ear) if topic.endswith("/registry/server") else self._ear


def call(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@dataclass
class Request:
    headers: Any
    body: Any


@dataclass
class Site:
    """Propeller's model registry, data store and coordinator in one: what is asked of them, and what they hold."""

    answers: dict[str, Any] = field(default_factory=dict)
    requests: dict[str, queue.Queue[Request]] = field(default_factory=lambda: defaultdict(queue.Queue))
    gate: threading.Event = field(default_factory=threading.Event)
    """Cleared, no POST is answered."""

    def __post_init__(self) -> None:
        self.gate.set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(body)

            def _answer(self, body: Any) -> None:
                site.requests[self.path].put(Request(self.headers, body))
                if body is not None:
                    site.gate.wait(PATIENCE)
                found = site.answers.get(self.path)
                content = json.dumps({"error": "not there"} if found is None else found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
