"""Real child processes: restarted, stopped, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate.stack import rotation
from swashplate.stack.supervisor import Child, Supervisor, ending, restart_delay

PATIENCE = 15
SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()",
]


def child(tmp_path: Path, command: list[str], name: str = "x", **more) -> Child:
    return Child(name=name, command=command, env=dict(os.environ), log_file=tmp_path / f"{name}.log", **more)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_delay_doubles_up_to_half_a_minute_and_starts_over_after_a_steady_run():
    delays, delay = [], None
    for _ in range(8):
        delay = restart_delay(delay, 0.1)
        delays.append(delay)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restart_delay(30, 31) == 0.5


def test_endings_are_told_in_words():
    assert ending(-9) == "was killed by SIGKILL"
    assert ending(3) == "exited with status 3"


async def test_a_killed_child_is_started_again_and_the_user_told(tmp_path):
    told = []
    supervisor = Supervisor(told.append)
    one = child(tmp_path, SLEEPER)
    await supervisor.start(one)
    first = one.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: one.pid not in {None, first})
    assert "killed by SIGKILL" in told[0]
    await supervisor.close()
    assert one.pid is None


async def test_closing_stops_the_last_child_after_the_others(tmp_path):
    order = tmp_path / "order"
    script = (
        "import signal, sys\n"
        f"def stop(*_):\n    open({str(order)!r}, 'a').write(sys.argv[1] + '\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True)\n"
        "while True: signal.pause()"
    )
    supervisor = Supervisor(print)
    for name, last in (("broker", True), ("service", False)):
        await supervisor.start(child(tmp_path, [sys.executable, "-c", script, name], name, last=last))
    await until(lambda: all("up" in one.last_log_line() for one in supervisor.children))
    await supervisor.close()
    assert order.read_text().split() == ["service", "broker"]


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("swashplate.stack.supervisor.STOP_GRACE_S", 0.2)
    supervisor = Supervisor(lambda _: None)
    one = child(tmp_path, STUBBORN)
    await supervisor.start(one)
    await until(lambda: "up" in one.last_log_line())
    pid = one.pid
    await supervisor.close()
    assert gone(pid)


def test_no_child_outlives_a_killed_parent(tmp_path):
    program = f"""
import asyncio, os, sys
from pathlib import Path
from swashplate.stack import rotation
from swashplate.stack.supervisor import Child, Supervisor
async def main():
    supervisor = Supervisor(print)
    one = Child(name="x", command={STUBBORN!r}, env=dict(os.environ), log_file=Path({str(tmp_path)!r}) / "x.log")
    await supervisor.start(one)
    while "up" not in one.last_log_line():
        await asyncio.sleep(0.01)
    print(one.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
        parent.wait()
        asyncio.run(until(lambda: gone(pid)))


async def test_a_command_that_does_not_exist_is_an_error_naming_the_child(tmp_path):
    with pytest.raises(Exception, match="cannot start x"):
        await Supervisor(print).start(child(tmp_path, ["/nonexistent/program"]))


async def test_a_child_that_waits_for_its_restart_is_not_started_while_closing(tmp_path, monkeypatch):
    """One child uses up its grace; meanwhile the delay of another that had died runs out."""
    monkeypatch.setattr("swashplate.stack.supervisor.RESTART_FIRST_S", 0.1)
    monkeypatch.setattr("swashplate.stack.supervisor.STOP_GRACE_S", 0.5)
    supervisor = Supervisor(lambda _: None)
    stubborn, dead = child(tmp_path, STUBBORN, "stubborn"), child(tmp_path, SLEEPER, "dead")
    await supervisor.start(stubborn)
    await until(lambda: "up" in stubborn.last_log_line())
    await supervisor.start(dead)
    os.kill(dead.pid, signal.SIGKILL)
    await until(lambda: dead.pid is None)
    await supervisor.close()
    assert (stubborn.pid, dead.pid, dead.restarts) == (None, None, 0)


async def test_a_stopped_child_stays_down_until_it_is_started(tmp_path):
    told = []
    supervisor = Supervisor(told.append)
    one, two = child(tmp_path, SLEEPER, "one"), child(tmp_path, SLEEPER, "two")
    for each in (one, two):
        await supervisor.start(each)
    first = one.pid
    await supervisor.stop(one)
    assert (gone(first), supervisor.state(one), supervisor.state(two)) == (True, "stopped", "running")
    os.kill(two.pid, signal.SIGKILL)  # a restart takes the same delay that the stopped one would
    await until(lambda: two.restarts == 1 and two.pid)
    assert (supervisor.state(one), one.pid, one.restarts) == ("stopped", None, 0)
    await supervisor.start(one)
    await supervisor.start(one)
    assert (supervisor.state(one), supervisor.children) == ("running", [one, two])
    assert "one" not in " ".join(told)
    await supervisor.close()
    assert gone(one.pid)


async def test_a_child_is_stopped_while_it_waits_for_its_restart(tmp_path):
    supervisor = Supervisor(lambda _: None)
    one = child(tmp_path, ["false"])
    await supervisor.start(one)
    await until(lambda: supervisor.state(one) == "restarting")
    await supervisor.stop(one)
    assert supervisor.state(one) == "stopped"
    await supervisor.remove(one)
    assert supervisor.children == []


async def test_what_a_child_says_last_is_in_its_log_and_no_log_grows_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "LARGEST", 100_000)
    talker = "for n in range(20000): print(n, 'y' * 72)\nprint('goodbye')"
    supervisor = Supervisor(lambda _: None)
    one = child(tmp_path, [sys.executable, "-c", talker])
    await supervisor.start(one)
    await until(lambda: one.pid is None)
    await supervisor.close()
    assert one.last_log_line() == "goodbye"
    sizes = {each.name: each.stat().st_size for each in tmp_path.iterdir()}
    assert len(sizes) == rotation.KEPT
    assert max(sizes.values()) < 101_000  # the end of a line that was begun before
