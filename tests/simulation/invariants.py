"""What must be true after every schedule, whatever went wrong in it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby, pairwise
from typing import Any

from manager.latent import calls
from manager.state import invocation_store, results, store
from manager.state.records import Attempt, Group, GroupState, Invocation, Task
from manager.state.states import AttemptState, InvocationState, TaskState
from manager.work import denials
from manager.work.runs import FINAL_DENIALS
from swashplate.messages import Start
from tests.simulation.plan import MINUTE_AT_S

WATCHED = """
CREATE TABLE twice (what TEXT);
CREATE TRIGGER attempts_end_once BEFORE UPDATE ON attempts WHEN OLD.finished_at IS NOT NULL AND (
    NEW.state IS NOT OLD.state OR NEW.result IS NOT OLD.result OR NEW.error IS NOT OLD.error
    OR NEW.finished_at IS NOT OLD.finished_at OR NEW.proplet_id IS NOT OLD.proplet_id)
BEGIN INSERT INTO twice VALUES ('attempt ' || OLD.number || ' of ' || OLD.task_id || ' as ' || OLD.state || ' and as ' || NEW.state);
END;
CREATE TRIGGER runs_end_once BEFORE UPDATE ON tasks WHEN OLD.finished_at IS NOT NULL AND NEW.run = OLD.run AND NEW.state NOT IN (0, 5) AND (
    NEW.state IS NOT OLD.state OR NEW.result IS NOT OLD.result OR NEW.error IS NOT OLD.error
    OR NEW.finished_at IS NOT OLD.finished_at)
BEGIN INSERT INTO twice VALUES ('run ' || OLD.run || ' of ' || OLD.id || ' as ' || OLD.state || ' and as ' || NEW.state);
END;
"""
"""The database itself notes what ends more than once."""

CLOCK_S = 0.01
ENDED_BY_ATTEMPT = {TaskState.COMPLETED, TaskState.FAILED, TaskState.INTERRUPTED}
ENDED_BY_MANAGER = {"stopped", "lease_expired", "proplet_lost", "proxy_unreachable", "registry_unreachable"}


class BrokenError(AssertionError):
    """An invariant does not hold."""


def require(condition: object, sentence: str) -> None:
    if not condition:
        raise BrokenError(sentence)


def read(world, work) -> Any:
    with world.disks["manager"].engine.connect() as connection, connection.begin():
        return work(connection)


def settled(world) -> str | None:
    """What is not over yet, in one sentence; None when everything is."""
    faults = world.faults + world.record.twice
    if faults:
        raise BrokenError(faults[0])
    if world.manager is None or not world.manager.ready.is_set():
        return "the manager is not up"
    if world.clients.busy:
        return "a client still asks"
    for proplet_id in [each for each in world.proplet_ids if each not in world.lost]:
        life = world.proplets.get(proplet_id)
        if life is None:
            return f"{proplet_id} is not up"
        if (busy := life.busy()) is not None:
            return f"{proplet_id}: {busy}"
    for invocation in read(world, invocation_store.open_invocations):
        return f"invocation {invocation.id} is {invocation.state}"
    for group in read(world, store.active_groups):
        return f"{group.kind} {group.name} runs"
    standing: set[tuple[str, str, int]] = set()
    for task in read(world, store.active_tasks):
        if not task.standing:
            return f"task {task.spec.name} is {task.state.name}"
        attempts = [
            each for each in read(world, lambda db, task=task: store.attempts_of(db, task.id)) if each.run == task.run
        ]
        for attempt in attempts:
            if task.spec.daemon and not attempt.state.ended and not lasts(task, attempt):
                return f"{task.spec.name} is not in its last life"
            if attempt.state.held and (task.spec.daemon or attempt.state is AttemptState.READY):
                standing.add((attempt.proplet_id, task.id, attempt.number))
            elif not attempt.state.ended:
                return f"{task.spec.name}: attempt {attempt.number} is {attempt.state}"
    there = set(world.record.running) | set(world.record.deployed)
    if there != standing:
        return f"standing should be {sorted(standing)}, there are {sorted(there)}"
    return None


def lasts(task: Task, attempt: Attempt) -> bool:
    """Will this life of a daemon go on for ever?"""
    script = task.spec.env["DOES"].split(",")
    return script[min(attempt.number, len(script)) - 1].startswith("hang")


def undurable(world, said_id: str) -> str | None:
    """What is wrong with acknowledging a proplet's message now; None when all of it is on the disk."""
    task_id, number, *invocation, what = said_id.split("/")
    if invocation:
        row = _invocation(world, calls.invocation_of(invocation[0]))
        turn = int(invocation[0].partition(".")[2] or 1)
        known = row is None or row[0] != InvocationState.RUNNING or row[1] != turn
        return None if known else f"{said_id} was acknowledged while the disk had the invocation as {row[0]}"
    query = "SELECT state, accepted_at FROM attempts WHERE task_id = ? AND number = ?"
    row = world.disks["manager"].connection.execute(query, (task_id, int(number))).fetchone()
    if row is None:
        return None  # it was deleted
    state, accepted_at = row
    known = AttemptState(state).ended or (what in {"accepted", "ready"} and accepted_at is not None)
    return None if known else f"{said_id} was acknowledged while the disk had the attempt as {state}"


def _invocation(world, invocation_id: str) -> Any:
    query = "SELECT state, turn FROM invocations WHERE id = ?"
    return world.disks["manager"].connection.execute(query, (invocation_id,)).fetchone()


def uncalled(world, invocation: Invocation) -> str | None:
    """What is wrong with confirming this invocation now; None when it is on the disk, or gone with its task."""
    query = "SELECT 1 FROM tasks WHERE id = ?"
    deleted = world.disks["manager"].connection.execute(query, (invocation.task_id,)).fetchone() is None
    if deleted or _invocation(world, invocation.id):
        return None
    return f"invocation {invocation.id} was confirmed, and is not on the disk"


def unwritten(world, task_id: str, runs: int) -> str | None:
    """What is wrong with confirming a task with so many runs now; None when it is on the disk."""
    query = "SELECT run FROM tasks WHERE id = ?"
    row = world.disks["manager"].connection.execute(query, (task_id,)).fetchone()
    return None if row is not None and row[0] >= runs else f"run {runs} of {task_id} was confirmed, the disk has {row}"


def check(world) -> None:
    again = settled(world)
    require(again is None, f"it had settled, and now {again}")
    twice = world.disks["manager"].connection.execute("SELECT what FROM twice").fetchall()
    require(not twice, f"ended twice: {twice[0][0] if twice else ''}")
    for key, count in (*world.record.running.items(), *world.record.deployed.items()):
        require(count == 1, f"{key} runs {count} times")
    _, tasks = read(world, lambda db: store.list_tasks(db, 0, 1000))
    known = {task.id: task for task in tasks}
    for asked in world.clients.asked.values():
        if asked.id is not None:
            if asked.deleting and asked.id not in known:
                continue
            require(not asked.deleted, f"the deletion of {asked.key} was confirmed, and it is there")
            require(asked.id in known, f"task {asked.key} was confirmed and is gone")
            task = known[asked.id]
            if asked.spec.schedule:
                check_schedule(asked, task)
                continue
            require(
                asked.starts_confirmed <= task.run <= asked.starts_tried,
                f"{asked.key}: {asked.starts_confirmed} starts were confirmed, {asked.starts_tried} tried, {task.run} counted",
            )
    check_invocations(world, known)
    check_groups(world)
    for task in tasks:
        check_task(world, task, read(world, lambda db, task=task: store.attempts_of(db, task.id)))


DISK_REFUSES_S = 12.0
"""At most, in one schedule."""


def check_schedule(asked, task: Task) -> None:
    """It fired at its minute, once; a minute at which the disk refuses waits for the disk, and may be unscheduled meanwhile."""
    require(task.run <= 1, f"{asked.key} fired {task.run} times in a minute")
    require(task.next_run is None, f"{asked.key} is scheduled still")
    certain = (
        asked.scheduled is not None
        and asked.scheduled[0] < MINUTE_AT_S
        and asked.scheduled[1] > MINUTE_AT_S + DISK_REFUSES_S
    )
    require(task.run == 1 or not certain, f"{asked.key} was scheduled and has not fired")


def wrong_parents(world, start: Start) -> str | None:
    """What is wrong with the results of its parents that a start carries."""
    query = (
        "SELECT parent.id, parent.result FROM tasks AS child, tasks AS parent WHERE child.id = ? AND"
        " child.group_id = parent.group_id AND parent.state = 3 AND instr(child.spec_text, parent.id)"
    )
    connection = world.disks["manager"].connection
    now = connection.execute("SELECT attempt, state FROM tasks WHERE id = ?", (start.id,)).fetchone()
    if now is None or now[0] != start.attempt or not TaskState(now[1]).active:
        return None  # it was on its way while everything began anew
    rows = connection.execute(query, (start.id,)).fetchall()
    wanted = {parent: json.loads(result) for parent, result in rows}
    return None if start.parents == wanted else f"{start.name} was given {start.parents}, its parents produced {wanted}"


def check_groups(world) -> None:
    groups = {}
    for kind in ("job", "workflow"):
        groups |= {
            group.id: group for group in read(world, lambda db, kind=kind: store.list_groups(db, kind, 0, 1000)[1])
        }
    for asked in world.clients.groups.asked.values():
        if asked.id is not None and not asked.deleting:
            require(asked.id in groups, f"{asked.key} was confirmed and is gone")
        # A task that was added later made another one, which has no name.
        there = asked.id in groups and groups[asked.id].name == asked.key
        require(not asked.deleted or not there, f"the deletion of {asked.key} was confirmed, and it is there")
    for group in groups.values():
        tasks = read(world, lambda db, group=group: store.tasks_of_group(db, group.id))
        check_group(world, group, {task.id: task for task in tasks})
    for asked in world.clients.groups.asked.values():
        if asked.id is not None and not asked.deleting:
            members = {task.id for task in read(world, lambda db, i=asked.id: store.tasks_of_group(db, i))}
            missing = [each for each in asked.joined if each not in members]
            require(not missing, f"{missing} were added to {asked.key}, which was confirmed, and are not there")
    lost = [row[0] for row in read(world, _members) if row[1] not in groups]
    require(not lost, f"tasks {lost} belong to nothing")


def _members(db) -> Any:
    return db.exec_driver_sql("SELECT id, group_id FROM tasks WHERE group_id IS NOT NULL").fetchall()


def check_group(world, group: Group, tasks: dict[str, Task]) -> None:
    if group.state is GroupState.PENDING:
        return
    ended = [task for task in tasks.values() if task.state.ended]
    require(len(ended) == len(tasks), f"{group.name} is {group.state.name} and not all of its tasks have ended")
    spans = []
    for task in tasks.values():
        parents = [tasks[parent] for parent in task.spec.depends_on]
        attempts = [
            each
            for each in read(world, lambda db, task=task: store.attempts_of(db, task.id))
            if each.run == task.run and task.state is not TaskState.SKIPPED and each.offered_at is not None
        ]
        if not attempts:
            continue
        began = min(each.offered_at for each in attempts)
        spans.append((began, task.finished_at, task.spec.name))
        for parent in parents:
            require(
                parent.finished_at <= began, f"{group.name}: {task.spec.name} began before {parent.spec.name} ended"
            )
        states = {parent.state for parent in parents}
        if task.spec.run_if == "failure":
            require(TaskState.FAILED in states, f"{group.name}: {task.spec.name} ran and none of its parents failed")
        else:
            require(
                states <= {TaskState.COMPLETED}, f"{group.name}: {task.spec.name} ran, its parents ended as {states}"
            )
    if group.mode == "sequential":
        for (_, before, first), (after, _, second) in pairwise(sorted(spans)):
            require(before <= after, f"{group.name}: {second} began before {first} ended")
    if group.state is GroupState.COMPLETED:
        bad = [task.spec.name for task in ended if task.state is TaskState.INTERRUPTED]
        require(not bad, f"{group.name} is completed, {bad} were interrupted")


def check_invocations(world, tasks: dict[str, Task]) -> None:
    rows = {}
    for task in tasks.values():
        _, page = read(world, lambda db, task=task: invocation_store.list_invocations(db, task.id, 0, 1000))
        rows |= {invocation.id: invocation for invocation in page}
    for confirmed in world.clients.invocations:
        require(
            confirmed.id in rows or confirmed.task_id not in tasks,
            f"invocation {confirmed.id} was confirmed and is gone",
        )
    for invocation in rows.values():
        call = json.loads(invocation.call)["env"]["CALL"]
        task = tasks[invocation.task_id]
        times = world.record.called[call]
        require(times <= 1 + task.spec.retries, f"{call} of {task.spec.name} ran {times} times")
        if world.plan.proplets_reachable and invocation.code in {None, "internal", "trap:unreachable"}:
            require(
                times == 1 + invocation.retry, f"{call} counts {invocation.retry} repetitions and ran {times} times"
            )
        if invocation.state is InvocationState.COMPLETED:
            result = invocation.proplet_id, _value(invocation)
            produced = world.record.calls.get(call, [])
            require(result in produced, f"{call} completed with {result}, its guests produced {produced}")
        else:
            require(invocation.code and invocation.error, f"{call} is {invocation.state} without a reason")
            require(invocation.code != "result_missing", f"{call} was told to have a result that is not there")


def _value(invocation: Invocation) -> Any:
    """Of a large result its digest."""
    if results.is_whole(invocation.result):
        return json.loads(invocation.result or "null")
    [large] = results.parts(invocation.result)
    return large.digest


def check_task(world, task: Task, attempts: list[Attempt]) -> None:
    numbers = [attempt.number for attempt in attempts]
    require(numbers == list(range(1, task.attempt + 1)), f"{task.spec.name}: attempts {numbers}, latest {task.attempt}")
    require(task.state is not TaskState.PENDING or not attempts, f"{task.spec.name} is pending with attempts")
    require((task.run > 0) == bool(attempts), f"{task.spec.name} has {task.run} runs and attempts {numbers}")
    for run, of_run in groupby(attempts, key=lambda attempt: attempt.run):
        everyone = list(of_run)
        for target in {attempt.target for attempt in everyone}:
            line = [attempt for attempt in everyone if attempt.target == target]
            check_line(world, task, line)
            check_denials(task, line)
            if run == task.run and not task.spec.broadcast and task.state in ENDED_BY_ATTEMPT:
                last = line[-1]
                require(task.result == last.result, f"{task.spec.name} has another result than its last attempt")
    for attempt in attempts:
        check_end(world, task, attempt)


def check_line(world, task: Task, line: list[Attempt]) -> None:
    """The attempts of one run for one target, one after the other."""
    name = f"{task.spec.name} run {line[0].run}"
    counted = 0
    for before, after in zip([None, *line], line, strict=False):
        if before is not None:
            require(before.finished_at is not None, f"{name}: attempt {before.number} is open beside {after.number}")
            begun = after.offered_at or after.finished_at
            require(
                begun is None or begun >= before.finished_at,
                f"{name}: {after.number} began before {before.number} ended",
            )
            replaceable = {AttemptState.DENIED, AttemptState.LOST, AttemptState.FAILED}
            if task.standing:  # restarted by policy, or moved from a proplet that is drained
                replaceable |= {AttemptState.COMPLETED, AttemptState.INTERRUPTED}
            require(before.state in replaceable, f"{name}: {after.number} follows a {before.state} attempt")
            counted += before.state is AttemptState.FAILED or (
                before.state is AttemptState.LOST and before.accepted_at is not None
            )
    if not task.standing:
        last = line[-1]
        require(last.retry >= counted, f"{name}: attempt {last.number} counts {last.retry} retries, {counted} were")
        require(counted <= task.spec.retries, f"{name}: {counted} retries, {task.spec.retries} allowed")


def check_denials(task: Task, line: list[Attempt]) -> None:
    """Who denies is left alone for a while, and there is an end to it."""
    for attempt in line:
        known = [each for each in line if each.number < attempt.number]
        met = denials.in_a_row(known, attempt.target)
        name = f"attempt {attempt.number} of {task.spec.name}"
        require(len(met) < denials.MOST, f"{name} follows {len(met)} denials")
        if attempt.offered_at is not None:
            avoided = denials.avoided(met, attempt.target, attempt.offered_at + CLOCK_S)
            require(attempt.proplet_id not in avoided, f"{name} went to one that had just denied it")
    last = line[-1]
    enough = last.code in FINAL_DENIALS or denials.too_many(line, last.target)
    require(last.state is not AttemptState.DENIED or enough, f"{task.spec.name} ended with its first denials")


def check_end(world, task: Task, attempt: Attempt) -> None:
    """What is recorded of it was said, for just this attempt, by the proplet that held it."""
    name = f"attempt {attempt.number} of {task.spec.name}"
    if attempt.state is AttemptState.COMPLETED:
        produced = world.record.produced.get((task.id, attempt.number), [])
        result = attempt.proplet_id, json.loads(attempt.result or "null")
        require(result in produced, f"{name} completed with {result}, its guest produced {produced}")
    elif attempt.state is AttemptState.FAILED and attempt.proplet_id is not None:
        said = world.said.get((task.id, attempt.number, attempt.proplet_id), [])
        reasons = [each.error for each in said]
        require(attempt.error in reasons, f"{name} failed with {attempt.error!r}, its proplet said {reasons}")
    elif attempt.state in {AttemptState.INTERRUPTED, AttemptState.LOST}:
        require(attempt.code in ENDED_BY_MANAGER, f"{name} is {attempt.state} with code {attempt.code}")
    if world.plan.proplets_reachable:
        require(
            attempt.state is not AttemptState.LOST,
            f"{name} was given up ({attempt.code}), though its proplet was there",
        )
    if attempt.state.ended and attempt.state is not AttemptState.COMPLETED:
        require(attempt.code and attempt.error, f"{name} is {attempt.state} without a reason")


def seen(world) -> Counter[str]:
    """How tasks, attempts and invocations ended, and what went wrong on the way."""
    counted = Counter(f"{step.what}" for step in world.plan.steps)
    query = "SELECT state || coalesce(' ' || code, '') FROM "
    for table, what in (("attempts", "attempt"), ("invocations", "invocation")):
        counted.update(f"{what} {row[0]}" for row in world.disks["manager"].connection.execute(query + table))
    for row in world.disks["manager"].connection.execute("SELECT state FROM tasks"):
        counted[f"task {TaskState(row[0]).name.lower()}"] += 1
    counted["large results uploaded"] = len(world.uploaded)
    return counted
