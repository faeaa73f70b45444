"""Every role's connection to the broker: the settings' names, TLS with a real broker, and quality of service."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from coordinator.settings import CoordinatorSettings
from manager.settings import ManagerSettings
from proplet.settings import PropletSettings
from proxy.settings import ProxySettings
from swashplate.errors import ConfigurationError

PATIENCE = 10
ROLES = [
    (ManagerSettings, "MANAGER_", "MANAGER_MQTT_ADDRESS", "MANAGER_MQTT_"),
    (PropletSettings, "PROPLET_", "PROPLET_MQTT_ADDRESS", "PROPLET_MQTT_"),
    (ProxySettings, "PROXY_", "PROXY_MQTT_ADDRESS", "PROXY_MQTT_"),
    (CoordinatorSettings, "COORDINATOR_", "MQTT_BROKER", "MQTT_"),
]


def identity(prefix="MANAGER_", *, user="u", key="k"):
    return {
        f"{prefix}DOMAIN_ID": "d",
        f"{prefix}CHANNEL_ID": "c",
        f"{prefix}CLIENT_ID": user,
        f"{prefix}CLIENT_KEY": key,
    }


def manager(**mqtt):
    return ManagerSettings.load(identity() | {f"MANAGER_MQTT_{name}": value for name, value in mqtt.items()})


@pytest.mark.parametrize(("kind", "prefix", "address", "mqtt"), ROLES)
def test_every_role_has_the_same_settings_under_its_own_names(kind, prefix, address, mqtt):
    said = {
        address: "mqtts://broker.example",
        f"{mqtt}QOS": "2",
        f"{mqtt}TIMEOUT": "1m5s",
        f"{mqtt}KEEP_ALIVE": "45s",
        f"{mqtt}TLS_CA_CERT": "/ca",
        f"{mqtt}TLS_CLIENT_CERT": "/cert",
        f"{mqtt}TLS_CLIENT_KEY": "/key",
        f"{mqtt}TLS_INSECURE_SKIP_VERIFY": "true",
    }
    settings = kind.load(identity(prefix) | said)
    broker = settings.broker()
    assert (broker.host, broker.port, broker.tls) == ("broker.example", 8883, True)
    assert (broker.ca_cert, broker.client_cert, broker.client_key) == ("/ca", "/cert", "/key")
    assert broker.insecure_skip_verify
    assert (settings.mqtt_qos, settings.mqtt_timeout, settings.mqtt_keep_alive) == (2, 65, 45)


@pytest.mark.parametrize(
    ("name", "value"),
    [("QOS", "3"), ("QOS", "at least once"), ("TIMEOUT", "0"), ("KEEP_ALIVE", "20h"), ("TIMEOUT", "nan")],
)
def test_a_wrong_value_names_the_setting(name, value):
    with pytest.raises(ConfigurationError, match=f"MANAGER_MQTT_{name}"):
        manager(**{name: value})


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"ADDRESS": "ws://b"}, "MANAGER_MQTT_ADDRESS.*scheme 'ws'"),
        ({"ADDRESS": "tcp://b:99999"}, "MANAGER_MQTT_ADDRESS"),
        ({"ADDRESS": "ssl://b", "TLS_CLIENT_KEY": "/key"}, "MANAGER_MQTT_TLS_CLIENT_KEY: there is no certificate"),
        ({"ADDRESS": "tcp://b", "TLS_CA_CERT": "/ca"}, "certificates are set, but tcp://b is without TLS"),
        ({"ADDRESS": "ssl://b", "TLS_CA_CERT": "/nowhere/ca.crt"}, "/nowhere/ca.crt: No such file"),
    ],
)
def test_a_connection_that_cannot_be_is_refused_before_it_is_tried(said, reason):
    with pytest.raises(ConfigurationError, match=reason):
        manager(**said).bus("x")


def test_credentials_in_an_address_are_refused_without_being_shown():
    with pytest.raises(ConfigurationError) as caught:
        manager(ADDRESS="tcp://me:hunter2@broker:1883").bus("x")
    assert "hunter2" not in f"{caught.value.sentence} {caught.value.hint}"


# TLS, with the certificates of an authority that only this test knows.


@pytest.fixture
def tls_broker(make_broker, certificates):
    """Call with whether the broker demands a certificate of its clients."""

    def make(*, demands: bool = False):
        broker = make_broker()
        demanded = f'ca_file: "{certificates.ca}", verify: true' if demands else ""
        tls = f'tls: {{ cert_file: "{certificates.server}", key_file: "{certificates.server_key}", {demanded} }}'
        text = broker._config.read_text()
        assert "mqtt {" in text
        broker._config.write_text(text.replace("mqtt {", f"mqtt {{\n  {tls}", 1))
        return broker

    return make


def secured(broker, **mqtt):
    client = broker.credentials.client("manager")
    settings = ManagerSettings.load(
        identity(user=client.id, key=client.key)
        | {"MANAGER_MQTT_ADDRESS": f"ssl://127.0.0.1:{broker.port}"}
        | {f"MANAGER_MQTT_TLS_{name}": str(value) for name, value in mqtt.items()}
    )
    return settings.bus("m")


async def trouble_of(bus) -> str:
    """What keeps this bus from connecting, once that is known."""
    async with bus, asyncio.timeout(PATIENCE):
        while not bus.connected and "yet" in str(bus.trouble):
            await asyncio.sleep(0)
        return str(bus.trouble)


async def test_tls_connects_with_the_authority_of_the_broker(tls_broker, certificates):
    with tls_broker() as broker:
        async with secured(broker, CA_CERT=certificates.ca) as bus:
            await bus.wait_connected(PATIENCE)


async def test_tls_carries_large_and_many_messages(tls_broker, certificates):
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def keep(message):
        received.put_nowait(message.payload)

    sent = [bytes([number % 251]) * (4 << 20 if number == 40 else 10 * number) for number in range(80)]
    with tls_broker() as broker:
        base = broker.credentials.topics.base
        async with secured(broker, CA_CERT=certificates.ca) as bus:
            await bus.subscribe(f"{base}/control/+/x", keep)
            await bus.wait_connected(PATIENCE)
            await asyncio.gather(*(bus.publish(f"{base}/control/p/x", payload) for payload in sent))
            async with asyncio.timeout(PATIENCE):
                assert [await received.get() for _ in sent] == sent


async def test_tls_refuses_a_broker_that_no_known_authority_signed(tls_broker):
    with tls_broker() as broker, structlog.testing.capture_logs() as logs:
        assert "certificate verify failed" in await trouble_of(secured(broker))
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert "MANAGER_MQTT_TLS_CA_CERT" in line["hint"]


async def test_tls_without_verification_connects_to_anybody(tls_broker):
    with tls_broker() as broker:
        async with secured(broker, INSECURE_SKIP_VERIFY="true") as bus:
            await bus.wait_connected(PATIENCE)


async def test_a_client_certificate_is_shown_to_a_broker_that_demands_one(tls_broker, certificates):
    with tls_broker(demands=True) as broker:
        own = {"CLIENT_CERT": certificates.client, "CLIENT_KEY": certificates.client_key}
        async with secured(broker, CA_CERT=certificates.ca, **own) as bus:
            await bus.wait_connected(PATIENCE)
        assert "127.0.0.1" in await trouble_of(secured(broker, CA_CERT=certificates.ca))


async def test_a_broker_with_tls_spoken_to_without_says_what_to_do(tls_broker):
    with tls_broker() as broker, structlog.testing.capture_logs() as logs:
        client = broker.credentials.client("manager")
        settings = ManagerSettings.load(
            identity(user=client.id, key=client.key) | {"MANAGER_MQTT_ADDRESS": f"127.0.0.1:{broker.port}"}
        )
        assert "without an answer" in await trouble_of(settings.bus("m"))
    assert any("ssl://" in str(line.get("hint")) for line in logs)


# Quality of service.


@pytest.mark.parametrize(("configured", "published"), [("0", 1), ("1", 1), ("2", 2)])
async def test_control_messages_are_published_at_qos_1_or_as_high_as_configured(broker, configured, published):
    client, topics = broker.credentials.client("manager"), broker.credentials.topics
    settings = ManagerSettings.load(
        identity(user=client.id, key=client.key)
        | {"MANAGER_MQTT_ADDRESS": f"127.0.0.1:{broker.port}", "MANAGER_MQTT_QOS": configured}
    )
    peer = broker.connect("proplet-1")
    start = topics.to_proplet(broker.id("proplet-1"), "start")
    peer.subscribe(start, 2)
    async with settings.bus("m") as bus:
        await bus.wait_connected(PATIENCE)
        await bus.publish(start, b"control")
        await bus.publish(start, b"not that important", qos=0)
    arrived = {message.payload: message.qos for message in (peer.next(), peer.next())}
    assert arrived == {b"control": published, b"not that important": 0}


def test_a_qos_that_is_raised_is_said():
    with structlog.testing.capture_logs() as logs:
        manager(QOS="0").bus("m")
    assert [line["setting"] for line in logs if line["log_level"] == "warning"] == ["MANAGER_MQTT_QOS"]
