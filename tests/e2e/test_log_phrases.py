"""What a reader of the guide greps for, service by service: found after a round, and what means a failure is not."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import paho.mqtt.client as mqtt
import pytest

from client_wasm.demo import GUEST
from swashplate.stack import services
from tests.support.stack import Stack, poll

PROPLETS = ("proplet", "proplet-2", "proplet-3")
EVERYBODY = ("manager", "coordinator-http", "proxy", "local-data-store", *PROPLETS)
CHANNEL, IMAGE, ROUND, PROPLET = "{channel}", "{image}", "{round}", "{proplet}"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Grep:
    """Lines of each of these services that a regular expression finds, as ``grep -i`` does.

    ``shows`` must be in one of them, ``count`` is how many there are, None any number but none. A ``{proplet}`` is the id
    of the proplet whose log it is, or of each proplet in turn.
    """

    step: str
    services: tuple[str, ...]
    pattern: str
    shows: str = ""
    count: int | None = None


FOUND = [
    Grep("Verify Services", ("manager",), "connected|mqtt|subscribe", shows=CHANNEL),
    Grep("Verify Services", PROPLETS, "channel|subscribe", shows=CHANNEL),
    Grep("Verify Round 1", ("manager",), f"launched task.*{ROUND}", shows=PROPLET, count=3),
    Grep("Verify Round 1", ("manager",), f'launched task.*"proplet_id": "{UUID}".*"task_id": "{UUID}"', count=3),
    Grep("Verify Round 2", PROPLETS, "Requesting binary from registry", shows=f"registry: {IMAGE}", count=1),
    Grep("Verify Round 3", ("proxy",), "sent container chunk"),
    Grep("Verify Round 3", ("proxy",), "successfully sent all chunks", shows=IMAGE),
    Grep("Verify Round 4", PROPLETS, f"Executing task.*{ROUND}", count=1),
    Grep("Verify Round 4", PROPLETS, f"Starting Host runtime.*{ROUND}", count=1),
    Grep("Verify Round 4", PROPLETS, f"Task.*completed successfully.*{ROUND}", shows="Result: {", count=1),
    Grep("Verify Round 5", ("coordinator-http",), f"Received experiment configuration.*{ROUND}", count=1),
    Grep("Verify Round 5", ("coordinator-http",), f"Received update.*{ROUND}", shows=PROPLET, count=3),
    Grep("Verify Round 5", ("coordinator-http",), f"Round complete: received k_of_n updates.*{ROUND}", count=1),
    Grep("Verify Round 5", ("coordinator-http",), f"Aggregated model stored.*{ROUND}", shows='"version": 1', count=1),
    Grep("Round completion", ("coordinator-http",), f"Published round completion notification to MQTT.*{ROUND}"),
    Grep("Weight Updates 3", PROPLETS, r"DEBUG: Initial model - w: \[0.000000, 0.000000, 0.000000\], b: 0.000000"),
    Grep("Weight Updates 3", PROPLETS, r"DEBUG: First sample - x: \[[-0-9., ]+\], y: [01]\b", count=1),
    Grep(
        "Weight Updates 3", PROPLETS, r"DEBUG: Final model after training - w: \[(-?0.\d*[1-9]\d*(, )?){3}\], b: -?0.\d"
    ),
    Grep("Weight Updates 4", PROPLETS, "DEBUG: Update payload", shows=PROPLET, count=1),
    Grep("Dataset Loading", PROPLETS, "Fetching dataset from Local Data Store: http://[^ ]*/datasets/", shows=PROPLET),
    Grep("Dataset Loading", PROPLETS, f"Successfully fetched dataset with 64 samples and passed to client.*{ROUND}"),
    Grep("Dataset Loading", PROPLETS, f"Loaded dataset with 64 samples from Local Data Store.*{ROUND}"),
    Grep("Data Store Logs", ("local-data-store",), "Dataset seeded", shows=PROPLET, count=3),
    Grep("Data Store Logs", ("local-data-store",), "Dataset served", shows=PROPLET),
    Grep("Proxy: subscribed", ("proxy",), "subscribe|registry", shows=f"{CHANNEL}/registry/proplet"),
    Grep("Proxy: asked", ("proxy",), "container request|app_name", shows=f'"app_name": "{IMAGE}"'),
    Grep("Proplet: assembled", PROPLETS, "chunk|assembled|binary", shows=f"Assembled binary for app '{IMAGE}'"),
    Grep("Filter by Round", ("manager", "coordinator-http", *PROPLETS), ROUND),
]

NEVER = [
    "(will use synthetic data)",
    "Failed to fetch dataset from Local Data Store",
    "DATASET_DATA not available",
    "Dataset missing",
    "skipping participant",
    "Round timeout exceeded",
    "Channel full, dropping container request",
    "403 Forbidden",
    "failed to fetch container",
    "failed to load TOML configuration",
    "connection refused",
]


class Round:
    """A stack after its first round, and what was announced meanwhile."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.env = dict(line.split("=", 1) for line in stack.env_file.read_text().splitlines() if "=" in line)
        self.channel = self.env["MANAGER_CHANNEL_ID"]
        self.base = f"m/{self.env['MANAGER_DOMAIN_ID']}/c/{self.channel}"
        self.heard: list[tuple[str, dict]] = []
        self.image = "local-registry:5000/fl-client-wasm:latest"
        with self.listening():
            self.id = self.run("fl/models/global_model_v0")
            poll(lambda: len(self.heard) == 2)

    def run(self, model_ref: str) -> str:
        round_id = f"r-{uuid.uuid4().hex[:10]}"
        body = self.stack.experiment(round_id=round_id, model_ref=model_ref, task_wasm_image=self.image)
        status, answer = self.stack.post("manager", "/fl/experiments", body)
        assert status == 200, answer
        assert self.stack.complete(round_id)["completed"]
        return round_id

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"listener-{uuid.uuid4().hex}")
        client.username_pw_set(self.env["COORDINATOR_CLIENT_ID"], self.env["COORDINATOR_CLIENT_KEY"])
        ready: list[int] = []
        client.on_message = lambda _c, _u, message: self.heard.append((message.topic, json.loads(message.payload)))
        client.on_subscribe = lambda _c, _u, mid, _codes, _p: ready.append(mid)
        client.connect("localhost", 1883 + self.stack.offset)
        client.loop_start()
        client.subscribe([("fl/rounds/next", 1), (f"{self.base}/fl/rounds/next", 1)])
        poll(lambda: ready)
        yield
        client.disconnect()
        client.loop_stop()

    def lines(self, service: str) -> list[str]:
        return self.stack.log(services.COMPOSE_NAMES.get(service, service)).splitlines()

    def proplet_of(self, service: str) -> list[str]:
        at = PROPLETS.index(service) if service in PROPLETS else None
        return self.stack.proplets if at is None else [self.stack.proplets[at]]


@pytest.fixture(scope="module")
def after(tmp_path_factory, nats_server):
    with Stack(tmp_path_factory.mktemp("phrases")) as stack:
        stack.push(GUEST)
        yield Round(stack)


def filled(text: str, round_: Round, proplet: str) -> str:
    for name, value in ((CHANNEL, round_.channel), (IMAGE, round_.image), (ROUND, round_.id), (PROPLET, proplet)):
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("grep", FOUND, ids=lambda grep: f"{grep.step}: {grep.pattern[:40]}")
def test_what_the_guide_greps_for_is_found(after, grep):
    for service in grep.services:
        for proplet in after.proplet_of(service):
            pattern = re.compile(filled(grep.pattern, after, proplet), re.IGNORECASE)

            def found(service=service, pattern=pattern):
                return [line for line in after.lines(service) if pattern.search(line)]

            lines = poll(found)  # the last lines of a round come after its answer
            assert grep.count in {None, len(lines)}, (service, lines)
            wanted = filled(grep.shows, after, proplet)
            assert any(wanted in line for line in lines), (service, wanted, lines)


@pytest.mark.parametrize("phrase", NEVER)
def test_what_means_a_failure_is_nowhere(after, phrase):
    for service in EVERYBODY:
        assert [line for line in after.lines(service) if phrase.lower() in line.lower()] == []


def test_the_channel_is_among_the_first_five_lines_that_name_a_subscription(after):
    for service in PROPLETS:
        first = [line for line in after.lines(service) if re.search("channel|subscribe", line, re.IGNORECASE)][:5]
        assert all(after.channel in line for line in first)


def test_the_end_of_a_round_is_announced_on_both_topics(after):
    assert sorted(topic for topic, _ in after.heard) == ["fl/rounds/next", f"{after.base}/fl/rounds/next"]
    for _, news in after.heard:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", news.pop("timestamp"))
        assert news == {
            "round_id": after.id,
            "new_model_version": 1,
            "model_uri": "fl/models/global_model_v1",
            "status": "complete",
            "next_round_available": True,
        }


def test_a_rounds_state_can_be_asked_at_both_ports(after):
    offset = after.stack.offset
    for port in (8086, 8080):
        status, body = after.stack.call("GET", f"http://localhost:{port + offset}/rounds/{after.id}/complete")
        assert (status, body["round_id"], body["completed"], body["num_updates"]) == (200, after.id, True, 3)


def test_the_next_round_starts_from_what_is_offered(after):
    offered = after.stack.get("coordinator", "/rounds/next")
    assert offered["next_round_available"]
    assert offered["last_completed_round"] == after.id
    assert (offered["new_model_version"], offered["model_uri"]) == (1, "fl/models/global_model_v1")
    before = after.stack.get("model-registry", "/models/1")
    after.run(offered["model_uri"])
    assert after.stack.get("model-registry", "/models/2") != before
    shown = "[" + ", ".join(f"{value:f}" for value in before["w"]) + "]"
    assert any(f"DEBUG: Initial model - w: {shown}" in line for line in after.lines("proplet"))


def test_datasets_are_files_in_the_guides_format(after):
    for proplet in after.stack.proplets:
        stored = json.loads((after.stack.state / "data-store" / "datasets" / f"{proplet}.json").read_text())
        assert stored == after.stack.get("data-store", f"/datasets/{proplet}")
        assert (stored["schema"], stored["proplet_id"], stored["size"]) == ("fl-demo-dataset-v1", proplet, 64)
        assert len(stored["data"]) == 64
        assert set(stored["data"][0]) == {"x", "y"}
