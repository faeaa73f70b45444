"""From a request to what arrives: the identity service with each broker that it can own."""

from __future__ import annotations

import itertools
import queue

import pytest

from swashplate.topics import Topics
from tests.support.broker import Broker, Peer
from tests.support.identity import Identity
from tests.support.ports import free_port

NUMBERS = itertools.count()


class World:
    """A service and its broker; ``join`` makes a connected client and logs it in."""

    def __init__(self, identity: Identity, broker: Broker) -> None:
        self.identity, self.broker = identity, broker
        self.domain = identity.domain(f"domain-{next(NUMBERS)}")
        self.channel = identity.channel(self.domain)
        self.topics = Topics(self.domain, self.channel)
        self.keys: dict[str, str] = {}

    def make(self, name: str, types=("publish", "subscribe"), **fields) -> str:
        made = self.identity.client(self.domain, name, **fields)
        self.keys[made["id"]] = made["credentials"]["secret"]
        if types:
            self.identity.connect(self.domain, self.channel, made["id"], types=types)
        return made["id"]

    def log_in(self, client_id: str, key: str = "") -> Peer:
        return self.broker.connect_as(client_id, key or self.keys[client_id])

    def join(self, name: str, types=("publish", "subscribe"), **fields) -> tuple[str, Peer]:
        client_id = self.make(name, types, **fields)
        peer = self.log_in(client_id)
        assert peer.accepted
        return client_id, peer

    def post(self, path: str, body=None, method: str = "POST") -> None:
        status, answer = self.identity.call("clients", method, f"/{self.domain}/clients/{path}", body)
        assert status in {200, 204}, answer


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def service(request, tmp_path_factory):
    """One service and one broker for all tests, each of which has a domain of its own and leaves both running."""
    kind, folder = request.param, tmp_path_factory.mktemp("service")
    executable = request.getfixturevalue({"embedded": "nats_server"}.get(kind, kind))
    told = {"BROKER_PID_FILE": folder / "broker" / "broker.pid", "BROKER_LOG": folder / "broker.log"}
    with (
        Identity(folder, kind, **told) as identity,
        Broker(kind, executable, folder / "broker", None, identity.mqtt_port) as broker,
    ):
        yield identity.log_in(), broker


@pytest.fixture
def world(service):
    return World(*service)


def test_a_client_can_do_what_its_role_allows_once_it_is_told_that_it_is_connected(world):
    _, boss = world.join("manager")
    proplet, one = world.join("proplet-1")
    other = world.make("whatever", metadata={"role": "proplet"})
    two = world.log_in(other)
    two.subscribe(f"{world.topics.base}/control/manager/{other}/#")
    one.subscribe(f"{world.topics.base}/#")
    one.subscribe(world.topics.to_proplet(proplet, "start"))
    boss.subscribe(world.topics.every_proplet("status"))
    one.publish(world.topics.proplet(other, "status"), "forged")
    one.publish(world.topics.proplet(proplet, "status"), "mine")
    assert boss.until("mine") == ["mine"]
    boss.publish(world.topics.to_proplet(other, "start"), "theirs")
    boss.publish(world.topics.to_proplet(proplet, "start"), "mine")
    assert one.until("mine") == ["mine"]
    assert two.until("theirs") == ["theirs"]


def test_a_client_without_a_role_has_what_its_connection_says_on_that_channel_alone(world):
    _, reader = world.join("dashboard", ["subscribe"])
    _, writer = world.join("sensor", ["publish"])
    _, both = world.join("bridge")
    elsewhere = Topics(world.domain, world.identity.channel(world.domain, "other"))
    for peer in (reader, writer, both):
        peer.subscribe(f"{world.topics.base}/#")
        peer.subscribe(f"{elsewhere.base}/#")
    reader.publish(f"{world.topics.base}/a", "from the reader")
    both.publish(f"{elsewhere.base}/a", "on a foreign channel")
    writer.publish(f"{world.topics.base}/a", "from the writer")
    assert reader.until("from the writer") == ["from the writer"]
    assert both.until("from the writer") == ["from the writer"]
    both.publish(f"{world.topics.base}/a", "last")
    assert reader.until("last") == ["last"]
    with pytest.raises(queue.Empty):
        writer.inbox.get_nowait()


def test_who_is_not_connected_to_a_channel_cannot_log_in(world):
    client_id = world.make("manager", types=())
    assert not world.log_in(client_id).accepted
    world.identity.connect(world.domain, world.channel, client_id)
    assert world.log_in(client_id).accepted


@pytest.mark.parametrize("how", ["removed", "disabled", "another key", "disconnected"])
def test_who_is_revoked_is_thrown_out_at_once_and_nobody_else(world, how):
    client_id, revoked = world.join("proplet-1")
    _, kept = world.join("manager")
    match how:
        case "removed":
            world.post(client_id, method="DELETE")
        case "disabled":
            world.post(f"{client_id}/disable")
        case "another key":
            world.post(f"{client_id}/secret", {"secret": "a-new-one"}, "PATCH")
        case "disconnected":
            body = {"client_ids": [client_id], "channel_ids": [world.channel], "types": ["publish", "subscribe"]}
            assert world.identity.call("channels", "POST", f"/{world.domain}/channels/disconnect", body)[0] == 204
    revoked.disconnects.get(timeout=10)
    assert not world.log_in(client_id).accepted
    kept.subscribe(world.topics.announce)
    kept.publish(world.topics.announce, "still here")
    assert kept.until("still here") == ["still here"]
    with pytest.raises(queue.Empty):
        kept.disconnects.get_nowait()
    if how == "another key":
        assert world.log_in(client_id, "a-new-one").accepted


@pytest.mark.parametrize("connected_elsewhere", [False, True])
def test_a_right_that_is_taken_away_ends_the_subscription_that_used_it(world, connected_elsewhere):
    client_id = world.make("dashboard")
    if connected_elsewhere:
        world.identity.connect(world.domain, world.identity.channel(world.domain, "other"), client_id)
    reader = world.log_in(client_id)
    _, writer = world.join("bridge")
    reader.subscribe(f"{world.topics.base}/#")
    writer.publish(f"{world.topics.base}/a", "before")
    assert reader.until("before") == ["before"]
    body = {"client_ids": [client_id], "channel_ids": [world.channel], "types": ["subscribe"]}
    assert world.identity.call("channels", "POST", f"/{world.domain}/channels/disconnect", body)[0] == 204
    writer.subscribe(f"{world.topics.base}/#")
    writer.publish(f"{world.topics.base}/a", "secret")
    assert writer.until("secret") == ["secret"]
    again = world.log_in(client_id)
    assert again.accepted
    again.publish(f"{world.topics.base}/a", "still allowed")
    assert writer.until("still allowed") == ["still allowed"]
    leaked = [message.payload for message in reader.inbox.queue]
    assert leaked == []


def test_what_was_changed_while_the_broker_was_down_holds_when_it_is_back(world):
    gone = world.make("proplet-1")
    world.broker.kill()
    world.post(gone, method="DELETE")
    new = world.make("proplet-2")
    world.broker.start()
    assert not world.log_in(gone).accepted
    assert world.log_in(new).accepted


@pytest.mark.parametrize("service", ["embedded"], indirect=True)
def test_health_tells_that_the_broker_refuses_its_files_until_it_takes_them(world):
    """nats-server cannot change its port while it runs."""
    identity = world.identity
    for port, status in ((free_port(), 503), (identity.mqtt_port, 200)):
        identity.kill()
        identity.settings["MQTT_PORT"] = port
        identity.start()
        found, answer = identity.call("clients", "GET", "/health")
        assert found == status, answer
        assert ("refuses" in str(answer)) == (status == 503)
    identity.log_in()
