"""What arrives on the real broker, and what does not.

A forbidden message is followed by an allowed one that takes the same way; when that has arrived, the other would have.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys

import pytest

# Topics proplet-1 may not speak on, below the base unless they start with "fl/": who may, and who reads them.
FORBIDDEN = {
    "control/proplet/{p2}/status": ("proplet-2", "manager"),
    "control/proplet/{p2}/results": ("proplet-2", "manager"),
    "control/proplet/{p2}": ("proplet-2", "manager"),
    "control/proplet/create": ("manager", "manager"),
    "control/manager/{p2}/start": ("manager", "proplet-2"),
    "control/manager/{p1}/ack": ("manager", "proplet-1"),
    "control/manager/announce": ("manager", "proplet-2"),
    "registry/manager": ("manager", "proxy"),
    "registry/server/manager": ("proxy", "manager"),
    "registry/server/{p2}": ("proxy", "proplet-2"),
    "registry/proplet/{p2}": ("proplet-2", "proxy"),
    "registry/blobs/{digest}/0": ("proxy", "proplet-2"),
    "base/fl/rounds/start": ("fl-coordinator", "manager"),
    "base/fl/rounds/next": ("fl-coordinator", "proplet-2"),
    "base/fl/rounds/r1/tasks/{p1}": ("manager", "fl-coordinator"),
    "fl/rounds/start": ("manager", "fl-coordinator"),
    "fl/rounds/next": ("fl-coordinator", "manager"),
}


def full(broker, pattern: str) -> str:
    topic = pattern.format(p1=broker.id("proplet-1"), p2=broker.id("proplet-2"), digest="ab" * 32)
    base = broker.credentials.topics.base
    return topic if topic.startswith("fl/") else f"{base}/{topic.removeprefix('base/')}"


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_what_a_proplet_says_on_a_foreign_topic_reaches_nobody(broker, pattern):
    sender, reader = FORBIDDEN[pattern]
    topic = full(broker, pattern)
    listening = broker.connect(reader)
    assert listening.subscribe(topic)
    liar, honest = broker.connect("proplet-1"), broker.connect(sender)
    liar.publish(topic, "forged", qos=0)
    liar.publish(topic, "forged", qos=1)
    liar.publish(topic, "forged", qos=1, retain=True)
    honest.publish(topic, "honest")
    assert listening.until("honest") == ["honest"]


def test_a_forged_announce_is_not_retained(broker):
    topics = broker.credentials.topics
    broker.connect("proplet-1").publish(topics.announce, "forged", retain=True)
    late = broker.connect("proplet-2")
    late.subscribe(topics.announce)
    broker.connect("manager").publish(topics.announce, "honest")
    assert late.until("honest") == ["honest"]


def eavesdropping(broker) -> list[str]:
    start = broker.credentials.topics.to_proplet(broker.id("proplet-1"), "start")
    return [
        start,
        start.rpartition("/")[0] + "/#",
        f"{broker.credentials.topics.base}/control/manager/+/start",
        f"{broker.credentials.topics.base}/control/manager/*/start",
        f"{broker.credentials.topics.base}/#",
        "m/#",
        "+/+/+/+/+/+/+/+",
        "#",
        ">",
        "$MQTT/#",
        "$MQTT/msgs/#",
        "$MQTT/rmsgs/#",
        "$MQTT/sess/#",
        "$MQTT/sub/#",
        "$MQTT/sub/+",
        "$MQTT/>",
        "$MQTT/JSA/#",
        "$JS/#",
        "$JS/ACK/#",
        "$JS/EVENT/#",
        "$SYS/#",
        "_INBOX/#",
        "+/#",
    ]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_start_reaches_its_proplet_and_no_other_whatever_that_subscribes_to(broker, qos):
    topics, p1, p2 = broker.credentials.topics, broker.id("proplet-1"), broker.id("proplet-2")
    addressee, other, manager = (broker.connect(n) for n in ("proplet-1", "proplet-2", "manager"))
    assert addressee.subscribe(f"{topics.base}/control/manager/{p1}/#")
    for topic_filter in eavesdropping(broker):
        other.subscribe(topic_filter, qos)
    assert other.subscribe(f"{topics.base}/control/manager/{p2}/#")
    for secret in (0, 1, 2):
        manager.publish(topics.to_proplet(p1, "start"), f"secret {secret}", qos=secret)
    manager.publish(topics.to_proplet(p1, "start"), "last")
    assert sorted(addressee.until("last"))[1:] == ["secret 0", "secret 1", "secret 2"]
    manager.publish(topics.to_proplet(p2, "start"), "yours")
    assert other.until("yours") == ["yours"]


def test_a_proplet_cannot_inject_messages_through_the_brokers_own_topics(broker):
    topics, p1 = broker.credentials.topics, broker.id("proplet-1")
    start = topics.to_proplet(p1, "start")
    addressee, liar, manager = (broker.connect(n) for n in ("proplet-1", "proplet-2", "manager"))
    addressee.subscribe(f"{topics.base}/control/manager/{p1}/#")
    for prefix in ("$MQTT/msgs/", "$MQTT/rmsgs/", "$MQTT/sub/", "$JS/API/STREAM/DELETE/$MQTT_msgs/", "$SYS/"):
        liar.publish(prefix + start, "forged", qos=0)
        liar.publish(prefix + start, "forged", qos=1, retain=True)
    liar.publish("$JS/API/STREAM/DELETE/$MQTT_msgs", "")
    liar.publish("$JS/API/STREAM/PURGE/$MQTT_msgs", "")
    manager.publish(start, "honest")
    assert addressee.until("honest") == ["honest"]


def test_a_proplet_that_subscribes_late_gets_the_retained_announce(broker):
    topics = broker.credentials.topics
    broker.connect("manager").publish(topics.announce, "hello", retain=True)
    late = broker.connect("proplet-2")
    assert late.subscribe(topics.announce)
    message = late.next()
    assert (message.payload, message.retain) == (b"hello", True)


@pytest.mark.parametrize(("sender", "reader"), [("manager", "fl-coordinator"), ("fl-coordinator", "manager")])
@pytest.mark.parametrize("topic", ["fl/rounds/start", "fl/rounds/next"])
def test_manager_and_coordinator_talk_on_the_bare_round_topics(broker, sender, reader, topic):
    listening = broker.connect(reader)
    assert listening.subscribe("fl/rounds/#")
    broker.connect(sender).publish(topic, "round")
    assert listening.next().topic == topic


def test_every_topic_of_the_protocol_passes(broker):
    for pattern, (sender, reader) in FORBIDDEN.items():
        topic = full(broker, pattern)
        listening = broker.connect(reader)
        listening.subscribe(topic)
        broker.connect(sender).publish(topic, "allowed")
        assert listening.next().topic == topic


@pytest.mark.parametrize(
    ("user", "key"),
    [("proplet-1", "wrong"), ("stranger", "wrong"), ("", ""), ("proplet-1", "key of proplet-2"), ("proplet-1", "")],
)
def test_a_connection_without_its_own_key_is_refused(broker, user, key):
    p1, p2 = broker.credentials.client("proplet-1"), broker.credentials.client("proplet-2")
    name = p1.id if user == "proplet-1" else user
    assert not broker.connect_as(name, p2.key if key == "key of proplet-2" else key).accepted


@pytest.mark.parametrize("name", [None, "manager"])
def test_the_embedded_brokers_other_port_lets_nobody_in(make_broker, name):
    with make_broker("embedded") as broker:
        port = int(re.search(r"client connections on 127\.0\.0\.1:(\d+)", broker.log.read_text())[1])
        login = ""
        if name:
            client = broker.credentials.client(name)
            login = f'"user":"{client.id}","pass":"{client.key}"'
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            stream = connection.makefile("rwb")
            assert stream.readline().startswith(b"INFO ")
            sent = f'CONNECT {{"verbose":true,{login}}}' if login else 'CONNECT {"verbose":true}'
            stream.write(sent.encode() + b"\r\n")
            stream.flush()
            assert stream.readline().startswith(b"-ERR 'Authorization Violation'")


def test_a_proplet_on_the_session_of_another_gets_none_of_its_messages(broker):
    topics, p1, p2 = broker.credentials.topics, broker.id("proplet-1"), broker.id("proplet-2")
    owner = broker.connect("proplet-1", client_id="known", clean=False)
    owner.subscribe(f"{topics.base}/control/manager/{p1}/#")
    owner.close()
    manager = broker.connect("manager")
    manager.publish(topics.to_proplet(p1, "start"), "queued")
    thief = broker.connect("proplet-2", client_id="known", clean=False)
    thief.subscribe(f"{topics.base}/control/manager/{p2}/#")
    manager.publish(topics.to_proplet(p1, "start"), "live")
    manager.publish(topics.to_proplet(p2, "start"), "yours")
    assert thief.until("yours") == ["yours"]


VICTIM = """
import sys, paho.mqtt.client as mqtt
port, user, key, topic = sys.stdin.read().split()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.username_pw_set(user, key)
client.will_set(topic, "offline", 1)
client.on_connect = lambda *_: print("up", flush=True)
client.connect("127.0.0.1", int(port))
client.loop_forever()
"""


@contextlib.contextmanager
def victim(broker, will_topic: str):
    """A connected process of proplet-1 with a last will."""
    client = broker.credentials.client("proplet-1")
    process = subprocess.Popen([sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(f"{broker.port} {client.id} {client.key} {will_topic}".encode())
        process.stdin.close()
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_last_will_of_a_killed_process_arrives(broker):
    topics = broker.credentials.topics
    manager = broker.connect("manager")
    manager.subscribe(topics.every_proplet("alive"))
    topic = topics.proplet(broker.id("proplet-1"), "alive")
    with victim(broker, topic) as process:
        process.kill()
        message = manager.next()
    assert (message.topic, message.payload) == (topic, b"offline")


def test_a_last_will_on_a_foreign_topic_reaches_nobody(broker):
    topics = broker.credentials.topics
    manager, other = broker.connect("manager"), broker.connect("proplet-2")
    manager.subscribe(topics.every_proplet("alive"))
    foreign = topics.proplet(broker.id("proplet-2"), "alive")
    with victim(broker, foreign) as process:
        process.kill()
        process.wait()
    with victim(broker, topics.proplet(broker.id("proplet-1"), "alive")) as process:
        process.kill()
        assert manager.next().topic != foreign
    other.publish(foreign, "online")
    assert manager.until("online") == ["online"]
