"""A real identity service on ports of its own, and the requests that an administrator makes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from swashplate.stack.environment import without_roles
from tests.support.ports import free_port

PATIENCE = 20.0
SERVICES = ("users", "domains", "channels", "clients")


class Identity:
    """``settings`` are further ``IDENTITY_…`` settings, named without the prefix."""

    def __init__(self, folder: Path, kind: str = "mosquitto", **settings: Any) -> None:
        self.folder = folder
        self.broker_folder = folder / "broker"
        self.log = folder / "identity.log"
        self.mqtt_port, *ports = (free_port() for _ in range(1 + len(SERVICES)))
        self.ports = dict(zip(SERVICES, ports, strict=True))
        self.settings = {
            "BROKER": kind,
            "BROKER_DIR": self.broker_folder,
            "STATE_DIR": folder / "identity",
            "MQTT_PORT": self.mqtt_port,
            **{f"{name.upper()}_PORT": port for name, port in self.ports.items()},
            **settings,
        }
        self.token = ""

    def run(self) -> subprocess.Popen[bytes]:
        own = {f"IDENTITY_{name}": str(value) for name, value in self.settings.items()}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "provision.identity"],
                env={**without_roles(os.environ), **own},
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def start(self) -> None:
        self.process = self.run()
        deadline = time.monotonic() + PATIENCE
        for name in SERVICES:
            while True:
                with contextlib.suppress(OSError):
                    self.call(name, "GET", "/health")
                    break
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.01)

    def ends(self) -> int:
        """Start it where it is to refuse; its exit status."""
        process = self.run()
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def call(
        self, service: str, method: str, path: str, body: Any = None, *, token: str | None = None, timeout: float = 30
    ) -> tuple[int, Any]:
        """Status and answer; ``OSError`` when there is no answer."""
        headers = {"Content-Type": "application/json"}
        if token is None:
            token = self.token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.ports[service]}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def log_in(self) -> Self:
        status, answer = self.call(
            "users", "POST", "/users/tokens/issue", {"username": "admin", "password": "12345678"}, token=""
        )
        assert status == 201, answer
        self.token = answer["access_token"]
        return self

    def made(self, service: str, path: str, body: Any) -> Any:
        status, answer = self.call(service, "POST", path, body)
        assert status == 201, answer
        return answer

    def domain(self, route: str = "fl-demo") -> str:
        return self.made("domains", "/domains", {"name": route, "route": route})["id"]

    def channel(self, domain: str, name: str = "fl") -> str:
        return self.made("channels", f"/{domain}/channels", {"name": name})["id"]

    def client(self, domain: str, name: str, **fields: Any) -> Any:
        return self.made("clients", f"/{domain}/clients", {"name": name, **fields})

    def connect(self, domain: str, channel: str, *clients: str, types: Any = ("publish", "subscribe")) -> None:
        self.made(
            "channels",
            f"/{domain}/channels/connect",
            {"client_ids": clients, "channel_ids": [channel], "types": types},
        )
