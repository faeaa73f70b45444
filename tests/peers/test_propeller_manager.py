"""Our proplet with a Propeller manager and a Propeller proxy, which are played from recorded conversations."""

from __future__ import annotations

import json

import pytest

from swashplate.messages import Announce, PropletCreate
from tests.peers.conftest import BROKERS, EXECUTABLES, OurProplet, manager_player, provisioned
from tests.peers.conversation import load, names
from tests.peers.player import Player

WHO = "propeller_manager"
SPUN = {"name": "_start", "state": 0, "cli_args": None, "broadcast": False, "daemon": False, "latent": False}


@pytest.fixture(scope="module", params=BROKERS)
def ours(request, tmp_path_factory, site):
    """A proplet on a broker that grants the shared topics; it runs."""
    folder, executable = tmp_path_factory.mktemp("proplet"), request.getfixturevalue(EXECUTABLES[request.param])
    with provisioned(request.param, executable, folder) as broker, OurProplet(broker, folder, site) as proplet:
        site.answers = {
            "/models/0": {"w": [0, 0], "b": 0},
            f"/datasets/{proplet.id}": {
                "schema": "fl-demo-dataset-v1",
                "data": [{"x": [i / 4, 1 - i / 4], "y": i % 2} for i in range(4)],
            },
            "/update": {"status": "accepted"},
        }
        yield proplet


@pytest.fixture(scope="module")
def player(ours, site):
    """The manager that heard it register."""
    played = manager_player(ours.broker, ours, site)
    ours.start()
    played.play(load(WHO, "00-register"))
    return played


@pytest.mark.parametrize("name", names(WHO))
def test_a_conversation_with_a_propeller_manager(player: Player, name: str):
    if name != "00-register":  # the fixture has played it
        player.play(load(WHO, name))
    assert player.left(topic(player, "control/proplet/results")) == []


def topic(player: Player, rest: str) -> str:
    return f"{player.variables['base']}/{rest}"


def test_nothing_on_the_shared_topics_is_retained(ours, player: Player):
    base = player.variables["base"]
    late = Player({"late": ours.broker.connect("manager")}, [f"{base}/control/+/+"], player.variables, ours.log)
    assert not any(late.next(topic(player, "control/proplet/alive")).retain for _ in range(2))
    assert late.left(topic(player, "control/proplet/create")) == []


def start(player: Player, task_id: str, binary: str, **more) -> None:
    file = {"$base64": f"${{{binary}}}"}
    payload = {"id": task_id, **SPUN, "file": file, "proplet_id": "${proplet}", **more}
    player.say({"topic": "${base}/control/manager/start", "payload": payload})


def test_a_proplet_that_was_killed_says_what_it_left_undone(ours, player: Player):
    start(player, "undone", "spin")
    player.log("Starting Host runtime app: task_id=undone")
    ours.kill()
    player.left(topic(player, "control/proplet/create"))
    ours.start()
    found = json.loads(player.next(topic(player, "control/proplet/results")).payload)
    assert found["task_id"] == "undone"
    assert "restarted" in found["error"]
    player.play(load(WHO, "00-register"))
    assert not list((ours.folder / "proplet" / "legacy").iterdir())


def test_a_result_made_without_a_broker_is_told_once_when_there_is_one(ours, player: Player, site):
    site.gate.clear()
    env = {"ROUND_ID": "r", "MODEL_URI": "fl/models/global_model_v0", "HYPERPARAMS": "{}"}
    start(player, "learned", "learns", name="fl-round-r", env=env)
    player.asked({"path": "/update"})
    ours.broker.kill()
    player.log("lost the MQTT broker")
    site.gate.set()
    player.log("Successfully posted FL update")
    ours.broker.start()  # it has kept the manager's session
    found = json.loads(player.next(topic(player, "control/proplet/results")).payload)
    assert (found["task_id"], found["error"]) == ("learned", None)
    player.next(topic(player, "control/proplet/create"))
    start(player, "after", "hello")
    assert json.loads(player.next(topic(player, "control/proplet/results")).payload)["task_id"] == "after"


def test_an_announcement_takes_the_proplet_to_its_own_topics_for_good(ours, player: Player):
    """Last on this broker, which remembers the announcement."""
    topics, manager = ours.broker.credentials.topics, player.clients["manager"]
    start(player, "begun-before", "spin")
    player.log("Starting Host runtime app: task_id=begun-before")
    manager.publish(topics.announce, Announce(heartbeat_s=0.1).encode(), retain=True)
    player.log("leaving the shared topics")
    assert PropletCreate.decode(player.next(topics.proplet(ours.id, "create")).payload).proplet_id == ours.id
    player.left(topic(player, "control/proplet/alive"))
    heard = len(player.left(topic(player, "control/proplet/alive")))
    start(player, "begun-after", "hello")
    player.say({"topic": "${base}/control/manager/stop", "payload": {"id": "begun-before"}})
    for _ in range(15):  # of its own reports, ten a second
        player.next(topics.proplet(ours.id, "alive"))
    assert len(player.left(topic(player, "control/proplet/alive"))) == heard
    assert "begun-after" not in ours.log()


def test_a_broker_that_does_not_grant_the_shared_topics_costs_the_proplet_nothing(nats_server, tmp_path):
    with (
        provisioned("embedded", nats_server, tmp_path, legacy=False) as broker,
        OurProplet(broker, tmp_path, None) as proplet,
    ):
        proplet.start()
        topics, manager = broker.credentials.topics, broker.connect("manager")
        manager.subscribe(f"{topics.base}/control/#", 2)
        player = Player({"manager": manager}, [], {"base": topics.base, "proplet": proplet.id}, proplet.log)
        player.log("the shared topics are not granted")
        manager.publish(topics.announce, Announce(heartbeat_s=0.1).encode(), retain=True)
        for _ in range(3):
            player.next(topics.proplet(proplet.id, "alive"))
        assert "lost the MQTT broker" not in proplet.log()
        assert player.left(f"{topics.base}/control/proplet/create") == []
