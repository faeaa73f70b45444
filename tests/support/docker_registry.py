"""Debian's docker-registry, the reference implementation, with one user in an htpasswd file."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from tests.support.certificates import Certificates
from tests.support.ports import free_port

USER, PASSWORD = "octocat", "correct-horse"
# bcrypt of that password, made once: a module for bcrypt is not worth a dependency.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n"
PATIENCE = 20.0


class DockerRegistry:
    """Stopped and started at will; what was pushed stays."""

    def __init__(self, executable: str, folder: Path, certificates: Certificates | None = None) -> None:
        """With certificates it speaks TLS."""
        self._executable = executable
        self._port = free_port()
        self.host = f"127.0.0.1:{self._port}"
        folder.mkdir()
        (folder / "htpasswd").write_text(HTPASSWD)
        self._config, self.log = folder / "config.yml", folder / "registry.log"
        tls, self._verify = "", ""
        if certificates is not None:
            tls = f", tls: {{certificate: {certificates.server}, key: {certificates.server_key}}}"
            self._verify = str(certificates.ca)
        self.url = f"{'https' if certificates else 'http'}://{self.host}"
        self._config.write_text(
            "version: 0.1\n"
            f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
            f"http: {{addr: '{self.host}'{tls}}}\n"
            f"auth: {{htpasswd: {{realm: lab, path: {folder / 'htpasswd'}}}}}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([self._executable, "serve", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert requests.get(f"{self.url}/v2/", timeout=5, verify=self._verify or True).status_code == 401
                return
            except requests.ConnectionError:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def manifest(self, repository: str, tag: str) -> requests.Response:
        return requests.get(
            f"{self.url}/v2/{repository}/manifests/{tag}",
            auth=(USER, PASSWORD),
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
            timeout=5,
            verify=self._verify or True,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
