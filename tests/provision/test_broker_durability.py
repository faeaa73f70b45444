"""Sessions, sizes and configuration of the brokers that we run."""

from __future__ import annotations

import contextlib

import pytest

from provision.brokers import MAX_PAYLOAD


@pytest.mark.parametrize("killed", [False, True], ids=["broker stays", "broker is killed"])
def test_results_sent_while_the_manager_was_away_wait_for_it(broker, killed):
    topics, p1 = broker.credentials.topics, broker.id("proplet-1")
    manager = broker.connect("manager", client_id="manager-1", clean=False)
    manager.subscribe(f"{topics.base}/control/proplet/#")
    manager.close()
    proplet = broker.connect("proplet-1")
    expected = [f"result {i}" for i in range(20)]
    for payload in expected:
        proplet.publish(topics.proplet(p1, "results"), payload)
    proplet.close()
    if killed:
        broker.kept(expected[-1].encode())
        broker.kill()
        broker.start()
    manager = broker.connect("manager", client_id="manager-1", clean=False)
    assert manager.session_present
    assert manager.until(expected[-1]) == expected


def test_the_retained_announce_survives_a_killed_broker(broker):
    topics = broker.credentials.topics
    broker.connect("manager").publish(topics.announce, "hello", retain=True)
    broker.kept(b"hello")
    broker.kill()
    broker.start()
    proplet = broker.connect("proplet-1")
    proplet.subscribe(topics.announce)
    assert proplet.next().payload == b"hello"


@pytest.mark.parametrize(("size", "qos"), [(512_000, 0), (MAX_PAYLOAD, 0), (MAX_PAYLOAD, 1)])
def test_a_payload_up_to_the_limit_passes(broker, size, qos):
    topics = broker.credentials.topics
    reader = broker.connect("proplet-1")
    reader.subscribe(topics.chunks_of("ab" * 32), qos)
    broker.connect("proxy").publish(topics.chunk("ab" * 32, 0), b"z" * size, qos)
    assert len(reader.next().payload) == size


def test_a_publisher_of_more_than_the_limit_is_disconnected(make_broker, kind):
    with make_broker(kind, max_payload=1000) as broker:
        proxy = broker.connect("proxy")
        with contextlib.suppress(RuntimeError):  # the connection ends while paho still writes
            proxy.publish(broker.credentials.topics.chunk("ab" * 32, 0), b"z" * 1_000_000, 0)
        assert proxy.disconnects.get(timeout=10).is_failure


@pytest.mark.parametrize("legacy", [False, True])
def test_shared_topics_pass_only_when_provisioned_for_legacy(make_broker, kind, legacy):
    with make_broker(kind, legacy=legacy) as broker:
        topics = broker.credentials.topics
        manager, proplet = broker.connect("manager"), broker.connect("proplet-1")
        assert manager.subscribe(f"{topics.base}/control/#", 2)
        proplet.subscribe(f"{topics.base}/control/manager/start", 2)
        proplet.subscribe(f"{topics.base}/control/manager/{broker.id('proplet-1')}/#", 2)
        proplet.publish(f"{topics.base}/control/proplet/create", "shared", 2)
        proplet.publish(topics.proplet(broker.id("proplet-1"), "status"), "own", 2)
        assert ("shared" in manager.until("own")) is legacy
        manager.publish(f"{topics.base}/control/manager/start", "shared", 2)
        if legacy:
            assert proplet.next().payload == b"shared"
        manager.publish(topics.to_proplet(broker.id("proplet-1"), "start"), "own", 2)
        assert proplet.until("own") == ["own"]


def test_a_propeller_manager_reads_everything_below_the_base_when_provisioned_for_legacy(make_broker, kind):
    with make_broker(kind, legacy=True) as broker:
        topics = broker.credentials.topics
        manager = broker.connect("manager")
        assert manager.subscribe(f"{topics.base}/#", 2)
        broker.connect("proxy").publish(f"{topics.base}/registry/server", "chunk", 2)
        assert manager.next().payload == b"chunk"


def test_two_services_with_one_client_have_the_rights_of_both(make_broker, kind):
    env = "MANAGER_CLIENT_ID=one\nMANAGER_CLIENT_KEY=k\nPROXY_CLIENT_ID=one\nPROXY_CLIENT_KEY=k\n"
    with make_broker(kind, env=env) as broker:
        topics = broker.credentials.topics
        proplet, both = broker.connect("proplet-1"), broker.connect("proxy")
        for topic in (topics.announce, topics.chunk("ab" * 32, 0)):
            proplet.subscribe(topic)
            both.publish(topic, "x")
            assert proplet.next().topic == topic


@pytest.mark.parametrize("key", ["$HOME", 'a"b\\c', "12345", "true", "{k}#[x]", "päss", "$MANAGER"])
def test_any_key_survives_the_brokers_configuration_language(make_broker, kind, key):
    with make_broker(kind, env=f"MANAGER_CLIENT_KEY={key}\n") as broker:
        assert broker.credentials.client("manager").key == key
        assert broker.connect("manager").accepted
