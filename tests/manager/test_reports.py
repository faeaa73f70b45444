"""The report of a run: kept with its attempt, shown with it, and never more of it than there should be."""

from __future__ import annotations

import json

from manager.work import reports
from swashplate.messages import Granted, RunReport

REPORT = {
    "isolation": "fork",
    "limits": {"memory_bytes": 64.0},
    "used": {"memory_bytes": 64.0, "wall_s": 0.5},
    "capabilities": {"asked": ["env SITE"], "granted": ["env SITE"]},
    "log_tail": "out of \x00memory\n",
}


async def test_a_report_is_shown_with_its_attempt_and_its_result(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(limits={"memory_bytes": 64}, isolation="fork", capabilities={"env": ["SITE"]})
        assert (task["limits"], task["isolation"]) == ({"memory_bytes": 64}, "fork")
        assert task["capabilities"] == {"env": ["SITE"]}
        start = await p1.started()
        assert (start.limits.memory_bytes, start.isolation, start.capabilities.env) == (64, "fork", ["SITE"])
        await p1.result(start, error="too much", code="memory_limit", report=RunReport.model_validate(REPORT))
        await world.ended(task["id"])
    async with world.manager():  # it is on the disk
        _, attempts = await world.call("GET", f"/tasks/{task['id']}/attempts")
        assert attempts["attempts"][0]["report"] == REPORT
        _, results = await world.call("GET", f"/tasks/{task['id']}/results")
        assert (results["code"], results["report"]) == ("memory_limit", REPORT)


async def test_a_task_without_a_report_has_none(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        await p1.result(await p1.started(), 1)
        await world.ended(task["id"])
        _, results = await world.call("GET", f"/tasks/{task['id']}/results")
        assert results == {"results": 1, "status": "completed"}


def test_what_is_kept_of_a_report_is_bounded():
    hostile = RunReport(
        limits={f"x{n}": 1.0 for n in range(10_000)} | {"cpu_s": 2.0},
        capabilities=Granted(asked=["a" * 10_000] * 1000, refused=["b" * 10_000] * 1000),
        log_tail="\x01" * 1_000_000,
        details={"x": "y" * 1_000_000},
    )
    text = reports.kept(hostile)
    assert len(text) <= reports.MOST_CHARS
    assert json.loads(text)["limits"] == {"cpu_s": 2.0}


def test_an_honest_report_is_kept_whole():
    honest = RunReport(log_tail="\0" * 4096, used={"fuel": 3.0}, capabilities=Granted(asked=["env A"] * 32))
    assert RunReport.model_validate(json.loads(reports.kept(honest))) == honest
