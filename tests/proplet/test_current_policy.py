"""A policy file that is changed while its proplet runs."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from proplet.policy import current
from proplet.policy.changes import changes
from proplet.policy.current import CurrentPolicy
from proplet.policy.document import PolicyFile
from proplet.policy.file import load
from swashplate.errors import ConfigurationError
from swashplate.messages import Alive, AttemptStatus, GuestCapabilities, PropletCreate, Result, Start
from tests.proplet.test_sandbox import writes_file
from tests.support.fleet import Fleet

SETTINGS = {"memory_bytes": 1 << 29}
GRANTING = '[default]\nenv = ["SITE"]\n'
ASKING = {"capabilities": {"env": ["SITE"]}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(GRANTING)
    return path


@pytest.fixture
async def fleet(broker, tmp_path):
    async with Fleet(broker, tmp_path).standing() as standing:
        yield standing


async def test_a_signal_takes_over_what_is_right_and_leaves_alone_what_runs(fleet, file, guests):
    def said(message: str) -> list[dict]:
        lines = (fleet.tmp_path / "proplet.log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["msg"].startswith(message)]

    async def again(text: str) -> None:
        file.write_text(text)
        proplet.send_signal(signal.SIGHUP)

    async def denied(**asked) -> AttemptStatus:
        start = await fleet.start(guests["prints"](""), **asked)
        return await fleet.next(AttemptStatus, lambda told: (told.task_id, told.status) == (start.id, "denied"))

    async with fleet.process(PROPLET_POLICY=str(file), PROPLET_SLOTS="2", SITE="north") as proplet:
        running = await fleet.start(guests["loops"], **ASKING)
        await fleet.busy(running)

        await again('[ceilings]\nmemory = "64MiB"\n')
        created = await fleet.next(PropletCreate)
        assert created.metadata["policy"].startswith("policy.toml ")
        assert (await denied(**ASKING)).code == "capability_refused"
        assert (await denied(limits={"memory_bytes": 65 << 20})).code == "limit_over_ceiling"
        [changed] = said("the policy has changed")
        assert changed["changed"] == ["ceilings.memory is 64 MiB, was not there", "default.env is gone, was SITE"]
        assert changed["policy"] == str(file)
        assert changed["digest"].startswith(created.metadata["policy"].split()[1])

        fleet.forget(Alive)
        await again('[ceilings]\nmemroy = "1GiB"\n')
        await fleet.busy(running)
        while not (refused := said("the changed policy is refused")):
            await asyncio.sleep(0.02)
        assert refused[0]["error"].startswith(
            f"policy {file}: field ceilings: there is no limit 'memroy'; there are wall"
        )
        assert (await denied(limits={"memory_bytes": 65 << 20})).code == "limit_over_ceiling"

        await again(GRANTING)
        await fleet.next(PropletCreate)
        printed = await fleet.start(guests["prints"]("let in"), **ASKING)
        assert (await fleet.next(Result, lambda told: told.task_id == printed.id)).results == "let in"


async def test_a_changed_policy_opens_one_directory_and_closes_another(world, file, tmp_path, monkeypatch, logged):
    monkeypatch.setattr(current, "LOOK_EVERY_S", 0.02)
    writes = writes_file(5, "by", "a guest")

    def granting(name: str) -> str:
        (tmp_path / name).mkdir()
        table = f'[directories.{name}]\npath = "{tmp_path / name}"\nwrite = true\n'
        return f'{table}[default.directories]\n{name} = "write"\n'

    def asking(name: str) -> Start:
        wish = {"name": name, "path": "/data", "write": True}
        return world.start(writes, capabilities=GuestCapabilities.model_validate({"directories": [wish]}))

    file.write_text(granting("first"))
    async with world.proplet(PROPLET_POLICY=str(file)):
        assert (await world.manager.outcome(asking("first"))).error is None
        file.write_text(granting("second"))
        await logged.until("the policy has changed")
        assert (await world.manager.outcome(asking("second"))).error is None
        refused = asking("first")
        await world.manager.start(refused)
        assert (await world.manager.status(refused.id)).code == "capability_refused"
    assert [(tmp_path / name / "by").read_text() for name in ("first", "second")] == ["a guest"] * 2


def held(file) -> CurrentPolicy:
    return CurrentPolicy(file, lambda: load(file, SETTINGS, "warm", {}))


async def test_a_change_is_noticed_without_a_signal(file, monkeypatch):
    monkeypatch.setattr(current, "LOOK_EVERY_S", 0.01)
    policy = held(file)
    noticed = asyncio.Event()
    policy.on_change.append(noticed.set)
    following = asyncio.create_task(policy.follow(asyncio.Event()))
    file.write_text('[default]\nisolation = "fork"\n')
    async with asyncio.timeout(20):
        await noticed.wait()
    following.cancel()
    assert policy.now.default.isolation == "fork"


async def test_what_is_wrong_is_said_once_and_again_to_who_asks(file, logged):
    def refusals() -> list[str]:
        return [line["error"] for line in logged if line["event"].startswith("the changed policy is refused")]

    policy = held(file)
    before = policy.now
    file.unlink()
    await policy.look()
    await policy.look()
    assert refusals() == [f"policy {file}: cannot be read: No such file or directory"]
    file.write_text("limits = ")
    await policy.look()
    await policy.look(asked=True)
    assert len(refusals()) == 3
    assert policy.now is before


async def test_an_empty_file_takes_everything_back(file):
    policy = held(file)
    file.write_text("")
    await policy.look()
    assert policy.now.default.env == []


async def test_without_a_file_there_is_nothing_to_read(logged):
    policy = held(None)
    await policy.look(asked=True)
    assert policy.described() == {}
    assert [line["event"] for line in logged] == ["there is no policy file to read again"]


def test_a_proplet_does_not_begin_with_a_policy_that_is_wrong(file):
    file.write_text("[nonsense]")
    with pytest.raises(ConfigurationError, match="field nonsense"):
        held(file)


def test_changes_are_told_field_by_field():
    before = PolicyFile.model_validate(
        {
            "directories": {"scans": {"path": "/scans"}, "old": {"path": "/old"}},
            "grant": [{"image": "a/b", "directories": {"scans": "read"}}, {"image": "a/c", "clock": False}],
        }
    )
    after = PolicyFile.model_validate(
        {
            "directories": {"scans": {"path": "/scans", "write": True}},
            "limits": {"cpu": "90s"},
            "grant": [{"image": "a/b", "directories": {"scans": "write"}, "env": ["TZ", "LANG"]}],
        }
    )
    assert changes(before, after) == [
        "directories.scans is /scans to write, was /scans",
        "limits.cpu is 90 s, was not there",
        "grant 1.directories.scans is write, was read",
        "grant 1.env is TZ, LANG, was not there",
        "directories.old is gone, was /old",
        "grant 2.clock is gone, was false",
        "grant 2.image is gone, was a/c",
    ]
    assert changes(after, after) == []
