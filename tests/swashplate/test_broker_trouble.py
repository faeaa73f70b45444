"""A broker that is away, refuses us or drops us: said once, tried again with growing pauses, and over when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal

import pytest
import structlog

from manager.settings import ManagerSettings
from swashplate.bus import MqttBus
from swashplate.bus.link import FIRST_S, MOST_S, Backoff, Link, LinkHints
from tests.support.ports import free_port

PATIENCE = 20


def bus_at(port: int, *, user="u", key="k") -> MqttBus:
    names = {"DOMAIN_ID": "d", "CHANNEL_ID": "c", "CLIENT_ID": user, "CLIENT_KEY": key}
    environ = {f"MANAGER_{name}": value for name, value in names.items()}
    return ManagerSettings.load(environ | {"MANAGER_MQTT_ADDRESS": f"tcp://127.0.0.1:{port}"}).bus("m")


@contextlib.contextmanager
def heard():
    with structlog.testing.capture_logs() as logs:
        yield logs


def loud(logs):
    return [line for line in logs if line["log_level"] in {"warning", "error"}]


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Attempts:
    """Counts connections; what happens to each is up to ``behave``."""

    def __init__(self, behave) -> None:
        self.count = 0
        self._behave = behave

    async def serve(self, reader, writer):
        self.count += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"MQTT")
            await reader.read(1000)
            await self._behave(reader, writer)
        writer.close()


@contextlib.asynccontextmanager
async def pretending(behave):
    attempts = Attempts(behave)
    async with await asyncio.start_server(attempts.serve, "127.0.0.1", 0) as server:
        yield attempts, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("code", [4, 5])
async def test_refused_credentials_are_said_once_and_name_the_settings(code):
    async def refuse(_, writer):
        writer.write(b"\x20\x02\x00" + bytes([code]))

    async with pretending(refuse) as (attempts, port):
        with heard() as logs:
            async with bus_at(port) as bus:
                await until(lambda: attempts.count >= 4)
                assert re.search("the MQTT broker at .* refuses the credentials", bus.trouble)
                assert not bus.connected
        (line,) = loud(logs)
        assert line["hint"] == "verify MANAGER_CLIENT_ID and MANAGER_CLIENT_KEY, and provision again"


async def test_an_absent_broker_is_said_once_and_when_it_comes_the_connection_stands():
    async def accept(reader, writer):
        writer.write(b"\x20\x02\x00\x00")
        await reader.read()

    port = free_port()
    with heard() as logs:
        async with bus_at(port) as bus:
            await until(lambda: "cannot be reached" in bus.trouble)
            assert f"cannot be reached at 127.0.0.1:{port}" in bus.trouble
            attempts = Attempts(accept)
            async with await asyncio.start_server(attempts.serve, "127.0.0.1", port):
                await bus.wait_connected(PATIENCE)
                assert bus.trouble is None
    (line,) = loud(logs)
    assert "MANAGER_MQTT_ADDRESS" in line["hint"]
    assert [line["event"] for line in logs if line["log_level"] == "info"] == ["connected to MQTT broker"]


async def test_credentials_that_become_right_at_the_broker_are_taken_without_a_restart(make_broker):
    with make_broker() as broker:
        client = broker.credentials.client("manager")
        right = broker._config.read_text()
        broker.kill()
        broker._config.write_text(right.replace(f'user: "{client.id}"', 'user: "somebody else"'))
        broker.start()
        async with bus_at(broker.port, user=client.id, key=client.key) as bus:
            await until(lambda: "refuses the credentials" in str(bus.trouble))
            broker._config.write_text(right)
            broker._process.send_signal(signal.SIGHUP)
            await bus.wait_connected(PATIENCE)
            assert bus.trouble is None


async def test_a_broker_that_drops_us_for_a_topic_is_said_once_with_the_topic():
    """As SuperMQ does with a topic of another channel: the connection is taken, and ended at the subscription."""

    async def drop(reader, writer):
        writer.write(b"\x20\x02\x00\x00")
        await reader.read(1000)

    async def ignore(_):
        pass

    async with pretending(drop) as (attempts, port):
        with heard() as logs:
            bus = bus_at(port)
            await bus.subscribe("m/another/c/channel", ignore)
            async with bus:
                await until(lambda: attempts.count >= 5)
                assert "takes the connection and drops it again" in bus.trouble
        first, second = loud(logs)
        assert (first["event"], first["reason"]) == ("lost the MQTT broker", "the connection ended")
        assert second["unanswered"] == ["subscribe m/another/c/channel"]
        assert "MANAGER_CHANNEL_ID" in second["hint"]
        assert not [line for line in logs if "connected to" in line["event"]]


async def test_a_topic_of_another_channel_that_the_broker_refuses_names_the_settings(broker):
    client = broker.credentials.client("manager")

    async def ignore(_):
        pass

    with heard() as logs:
        bus = bus_at(broker.port, user=client.id, key=client.key)
        await bus.subscribe("m/another/c/channel", ignore)
        async with bus:
            await bus.wait_connected(PATIENCE)
    (line,) = loud(logs)
    assert (line["event"], line["pattern"]) == ("subscription refused", "m/another/c/channel")
    assert "MANAGER_CHANNEL_ID" in line["hint"]


async def test_pauses_between_tries_grow_to_a_limit_and_are_not_all_alike():
    delays = [Backoff() for _ in range(20)]
    first = {each.failed() for each in delays}
    assert len(first) > 1
    assert all(0.75 * FIRST_S <= delay <= 1.25 * FIRST_S for delay in first)
    last = [[each.failed() for _ in range(10)][-1] for each in delays]
    assert all(0.75 * MOST_S <= delay <= 1.25 * MOST_S for delay in last)
    delays[0].worked()
    assert delays[0].failed() <= 1.25 * FIRST_S


def test_a_dropped_client_is_well_again_only_after_a_connection_that_lasted():
    link = Link("b:1", tls=False, hints=LinkHints())
    link.joined()
    for _ in range(3):
        link.lost("gone", after_s=0.1, doing=[])
        link.joined()
    assert link.trouble is not None
    link.steady()
    assert link.trouble is None
    link.lost("gone", after_s=100, doing=[])
    link.joined()
    assert link.trouble is None
