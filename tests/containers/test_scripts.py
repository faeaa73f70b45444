"""What runs inside the containers besides our services, and what runs the guide in them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from provision.brokers import Kind, Place, write_broker_files
from provision.credentials import complete
from provision.identity import access
from provision.identity.records import Records
from provision.identity.seeding import seed
from tests.support.broker import PATIENCE, Peer
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Provisioned:
    """The files of a broker, as identity writes them, for more and more clients."""

    def __init__(self, folder: Path) -> None:
        self.credentials = complete({}, 1)
        self.place = Place(folder, port=free_port())

    def write(self, *, clients: bool) -> None:
        records = Records()
        if clients:
            seed(records, self.credentials, "")
        write_broker_files(Kind.MOSQUITTO, access.users(records, legacy=False), self.place)

    def is_admitted(self) -> bool:
        manager = self.credentials.client("manager")
        peer = Peer(self.place.port, manager.id, manager.key)
        peer.close()
        return peer.accepted


@pytest.fixture
def started(mosquitto, tmp_path):
    """The broker container's program, on files that do not exist yet."""
    files = Provisioned(tmp_path / "broker")
    path = os.pathsep.join([str(Path(mosquitto).parent), os.environ["PATH"]])
    with subprocess.Popen(
        [ROOT / "containers" / "broker"],
        env={"PATH": path, "BROKER_DIR": str(files.place.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield files, process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_broker_waits_for_the_files_that_identity_writes(started):
    files, process = started
    assert "waiting for identity" in process.stdout.readline()
    assert not answers(files.place.port)
    files.write(clients=True)
    until(lambda: answers(files.place.port), "the broker does not start")
    assert files.is_admitted()


def test_the_broker_admits_a_client_that_is_provisioned_while_it_runs(started):
    files, process = started
    files.write(clients=False)
    until(lambda: answers(files.place.port), "the broker does not start")
    assert not files.is_admitted()
    files.write(clients=True)
    until(files.is_admitted, "the broker does not read its files again")
    assert process.poll() is None


def test_the_broker_ends_when_its_container_is_stopped(started):
    files, process = started
    files.write(clients=True)
    until(lambda: answers(files.place.port), "the broker does not start")
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert not answers(files.place.port)


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()
        self.wfile.write(b"the broker is away")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service():
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def healthy(url: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "containers" / "healthy", url], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr


def test_a_service_that_says_200_is_healthy(service):
    assert healthy(f"http://{service}/health") == (0, "")
    assert healthy(f"tcp://{service}") == (0, "")


def test_a_service_that_says_503_is_not_healthy_and_its_reason_is_kept(service):
    status, said = healthy(f"http://{service}/unhealthy")
    assert (status, said.strip()) == (1, "503: the broker is away")


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_a_service_that_does_not_answer_is_not_healthy(scheme):
    status, said = healthy(f"{scheme}://127.0.0.1:{free_port()}")
    assert status == 1
    assert "refused" in said


GUIDE = """\
## One

```bash compose
name=shared; echo first
```

```text
f...t
```

## Two

```bash compose
echo "second, $name"
```
"""


@pytest.fixture
def guide(tmp_path):
    def run(page: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "guide.md").write_text(page)
        command = [sys.executable, ROOT / "scripts" / "run_guide.py", "compose", "c", "guide.md", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)

    return run


def test_the_guides_commands_run_in_one_shell(guide):
    done = guide(GUIDE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "    second, shared\n" in done.stdout


def test_a_guide_whose_command_fails_fails_and_names_the_step(guide):
    done = guide(GUIDE.replace("echo first", "echo first; false"))
    assert done.returncode == 1
    assert "FAILED at One: exit status 1" in done.stderr
    assert "second" not in done.stdout


def test_a_guide_that_prints_less_than_it_shows_is_stopped_there(guide, tmp_path):
    done = guide(
        GUIDE.replace("echo first", "echo wrong").replace('echo "second', 'sleep 1; touch went-on; echo "second')
    )
    assert done.returncode == 1
    assert "FAILED at One: not printed: f...t" in done.stderr
    assert not (tmp_path / "went-on").exists()


def test_checks_of_our_own_run_before_the_step_they_are_for(guide, tmp_path):
    (tmp_path / "check.sh").write_text("echo checked $name; false\n")
    done = guide(GUIDE, "--before", "Two", "check.sh")
    assert done.returncode == 1
    assert "    checked shared\n" in done.stdout
    assert "second" not in done.stdout


def test_a_check_for_a_step_that_is_gone_is_an_error(guide, tmp_path):
    (tmp_path / "check.sh").write_text("true\n")
    done = guide(GUIDE, "--before", "Three", "check.sh")
    assert "'Three'" in done.stderr
    assert done.returncode == 1
