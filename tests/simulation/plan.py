"""What happens in a schedule, drawn from its seed alone before anything runs, so that it can be printed and cut down."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

HEARTBEAT_S = 5.0
SILENCE_S = 20.0
"""After so long a silent proplet's attempts go to another one, where they may."""
TROUBLE_S = 20.0
MINUTE_AT_S = 11.0
"""When the clock on the wall strikes a minute, and what is scheduled fires."""
"""So long clients ask and things break; then nothing breaks any more, and everything must settle."""


TROUBLES = {"lose", "ambush", "crash", "cut", "partition", "broker", "full"}


@dataclass(frozen=True)
class Step:
    """At ``at`` seconds, do ``what`` (a method of the world) with ``how``."""

    at: float
    what: str
    how: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.at:7.3f} {self.what} " + " ".join(f"{name}={value}" for name, value in self.how.items())


@dataclass(frozen=True)
class Plan:
    proplets: tuple[int, ...]
    """The slots of each."""
    steps: tuple[Step, ...]
    slow: float
    loss: float
    duplicate: float
    slow_commits: float
    restart: bool
    """Whether the manager is restarted at the end, to see that it finds what it had."""
    keeps_standing: bool
    """Whether daemons and latent tasks are left running at the end, or are stopped."""

    @classmethod
    def of(cls, *steps: Step, proplets: tuple[int, ...] = (1, 1), slow_commits: float = 0.0) -> Plan:
        """These steps and no other trouble."""
        return cls(
            proplets,
            steps,
            slow=0.0,
            loss=0.0,
            duplicate=0.0,
            slow_commits=slow_commits,
            restart=True,
            keeps_standing=True,
        )

    @property
    def proplets_reachable(self) -> bool:
        """Nothing but the manager fails, so that nobody has a reason to give up on a proplet."""
        failing = {step.how.get("who", "broker") for step in self.steps if step.what in TROUBLES}
        return (
            failing <= {"manager"}
            and self.loss < 0.1
            and not any(step.what in {"cut", "partition", "full"} for step in self.steps)
        )

    @property
    def prompt(self) -> bool:
        """What is said arrives soon, and what is put is soon on the disk."""
        return self.proplets_reachable and not self.slow and self.slow_commits < 0.5 and not self.loss

    @property
    def quiet_at(self) -> float:
        """From then on nothing is asked for and nothing breaks."""
        ends = [step.at + step.how.get("down_s", step.how.get("for_s", 0.0)) for step in self.steps]
        return max(TROUBLE_S / 2, *ends)


def behaviour(chance: random.Random) -> str:
    """What the guest does, attempt by attempt: the last one is also that of every further attempt."""

    def one() -> str:
        kind = chance.choices(("ok", "fail", "trap", "hang"), (60, 15, 15, 10))[0]
        return f"{kind}:{chance.choice((0.0, 0.01, 0.2, 1.0, 5.0))}"

    return ",".join(one() for _ in range(chance.randint(1, 3)))


def spec(chance: random.Random, proplets: int, *, anywhere: bool) -> dict[str, Any]:
    """``anywhere``: no certain proplet is asked for."""
    found: dict[str, Any] = {
        "env": {"DOES": behaviour(chance)},
        "timeout_s": chance.choice((1.0, 5.0, 20.0)),
        "retries": chance.choice((0, 0, 1, 3)),
        "priority": chance.choice((0, 50, 50, 50, 100)),
        "start": chance.random() < 0.7,
    }
    if chance.random() < 0.15:
        code, most = chance.choice((("no_slot", 3), ("dataset_missing", 1), ("dataset_missing", 4), ("unwilling", 100)))
        found["env"] |= {"DENIES": f"proplet-{chance.randrange(proplets)}:{most}", "DENIES_WITH": code}
    kinds = ("any", "daemon", "latent", "pinned", "broadcast")[: 3 if anywhere else None]
    match chance.choices(kinds, (60, 8, 7, 15, 10)[: len(kinds)])[0]:
        case "pinned":
            found["proplet_id"] = f"proplet-{chance.randrange(proplets)}"
        case "broadcast":
            found["broadcast"] = True
        case "daemon":
            found |= {"daemon": True, "restart": chance.choice(("never", "on_failure", "always"))}
            # Its last life goes on for ever, or it would be restarted for ever.
            lives = behaviour(chance).split(",") if chance.random() < 0.5 else []
            found["env"]["DOES"] = ",".join([*lives, "hang:0"])
            found["broadcast"] = not anywhere and chance.random() < 0.3
        case "latent":
            found["latent"] = True
            found["broadcast"] = not anywhere and chance.random() < 0.3
            found["env"]["DEPLOYS"] = chance.choice(("at once", "at once", "at once", "never"))
        case _:
            pass
    return found


def drawn(seed: int) -> Plan:
    chance = random.Random(seed)
    proplets = tuple(chance.choice((1, 1, 2, 4)) for _ in range(chance.randint(2, 4)))
    steps: list[Step] = []
    gone = f"proplet-{chance.randrange(len(proplets))}" if chance.random() < 0.15 else None

    def when(first: float = 0.0, last: float = TROUBLE_S) -> float:
        return round(chance.uniform(first, last), 3)

    burst = when(0, TROUBLE_S / 2)
    for number in range(chance.randint(2, 7)):
        at = when() if chance.random() < 0.5 else round(burst + chance.random() * 0.05, 3)
        made = spec(chance, len(proplets), anywhere=gone is not None)
        steps.append(Step(at, "create", {"key": f"task-{number}", **made}))
        more = chance.choice((0, 0, 1, 2))
        steps += [_later(chance, when(at, min(at + 8, TROUBLE_S)), f"task-{number}") for _ in range(more)]
        if made.get("latent"):
            steps += [_call(chance, when(at, TROUBLE_S), f"task-{number}") for _ in range(chance.randint(1, 4))]
    for number in range(chance.choice((0, 0, 1, 1, 2))):
        at, key = when(), f"group-{number}"
        steps.append(Step(at, "group", {"key": key, **_group(chance)}))
        for more in range(chance.choice((0, 0, 1, 3))):
            steps.append(Step(when(at, min(at + 8, TROUBLE_S)), "join_group", {"key": key, **_joining(chance, more)}))
        for _ in range(chance.choice((0, 0, 1, 2))):
            what = chance.choices(("stop_group", "start_group", "delete_group"), (40, 40, 20))[0]
            steps.append(Step(when(at), what, {"key": key}))
    for number in range(chance.choice((0, 0, 0, 1))):
        made = {"env": {"DOES": behaviour(chance)}, "timeout_s": 5.0, "start": False, "schedule": "* * * * *"}
        made["is_recurring"] = chance.random() < 0.5
        steps.append(Step(when(), "create", {"key": f"scheduled-{number}", **made}))
    for _ in range(chance.choice((0, 0, 0, 1))):
        proplet = f"proplet-{chance.randrange(len(proplets))}"
        began = when()
        steps.append(Step(began, chance.choice(("cordon", "drain")), {"proplet": proplet}))
        if chance.random() < 0.7:
            steps.append(Step(when(began), "uncordon", {"proplet": proplet}))
    who_fails = chance.choice(("anybody", "anybody", "manager"))
    steps += [Step(when(), *_trouble(chance, len(proplets), who_fails)) for _ in range(chance.choice((0, 1, 2, 4, 6)))]
    if gone is not None:
        steps.append(Step(when(), "lose", {"who": gone}))
    left = [slots for number, slots in enumerate(proplets) if f"proplet-{number}" != gone]
    return Plan(
        proplets=proplets,
        steps=tuple(sorted(steps, key=lambda step: step.at)),
        slow=chance.choice((0.0, 0.0, 0.02, 0.2)),
        loss=chance.choice((0.0, 0.02, 0.3)),
        duplicate=chance.choice((0.0, 0.02, 0.3)),
        slow_commits=chance.choice((0.0, 0.05, 0.5)),
        restart=chance.random() < 0.3,
        keeps_standing=chance.random() < 0.5 and _has_room_for_all(left, steps),
    )


def _group(chance: random.Random) -> dict[str, Any]:
    """A workflow or a job: each task may depend on those before it."""
    tasks: list[dict[str, Any]] = []
    for number in range(chance.randint(1, 5)):
        parents = [f"t{other}" for other in range(number) if chance.random() < 0.4]
        made = {"name": f"t{number}", "env": {"DOES": behaviour(chance)}, "timeout_s": 5.0, "depends_on": parents}
        if parents and chance.random() < 0.3:
            made["run_if"] = "failure"
        tasks.append(made | {"retries": chance.choice((0, 0, 1))})
    mode = chance.choice(("workflow", "workflow", "parallel", "sequential", "configurable"))
    return {"mode": mode, "tasks": tasks, "start": chance.random() < 0.8}


def _joining(chance: random.Random, number: int) -> dict[str, Any]:
    parents = chance.choice(([], ["t0"], ["t0"]))
    made = {"name": f"more-{number}", "env": {"DOES": behaviour(chance)}, "timeout_s": 5.0, "depends_on": parents}
    return made | ({"run_if": "failure"} if parents and chance.random() < 0.3 else {})


def _call(chance: random.Random, at: float, key: str) -> Step:
    does = f"{chance.choice(('ok', 'large', 'large', 'fail', 'trap', 'hang'))}:{chance.choice((0.0, 0.01, 0.5, 3.0))}"
    return Step(at, "invoke", {"key": key, "does": does, "timeout_s": chance.choice((2.0, 10.0, 60.0))})


def _later(chance: random.Random, at: float, key: str) -> Step:
    what = chance.choices(("stop", "start", "delete", "priority"), (30, 50, 10, 10))[0]
    return Step(at, what, {"key": key} | ({"priority": chance.randrange(101)} if what == "priority" else {}))


def _has_room_for_all(proplets: list[int], steps: list[Step]) -> bool:
    """Daemons never give their slot back: somebody must be left for whatever else there is."""
    made = [step.how for step in steps if step.what == "create"]
    choosy = any((how.get("proplet_id") or how.get("broadcast")) for how in made)
    return not choosy and sum(bool(how.get("daemon")) for how in made) < sum(proplets)


def _trouble(chance: random.Random, proplets: int, who_fails: str) -> tuple[str, dict[str, Any]]:
    everybody = ("manager", "manager", *(f"proplet-{n}" for n in range(proplets)))
    who = "manager" if who_fails == "manager" else chance.choice(everybody)
    short = round(chance.choice((0.0, 0.1, 1.0, 15.0)) * chance.random(), 3)
    kinds = ("ambush", "crash", "full", "cut", "partition", "broker")[: 3 if who_fails == "manager" else None]
    told = chance.choice((0.0, 0.001, 6.0))
    match chance.choices(kinds, (45, 15, 5, 15, 10, 10)[: len(kinds)])[0]:
        case "ambush":
            return "ambush", {
                "who": who,
                "event": chance.choice(("answer", "results", "status", "start", "ack", "create")),
                "after_s": round(chance.choice((0.0, 0.002, 0.01, 0.2)) * chance.random(), 6),
                "down_s": short,
                "told_s": told,
            }
        case "crash":
            return "crash", {"who": who, "down_s": short, "told_s": told}
        case "cut":
            return "cut", {"who": who, "client_s": chance.choice((0.0, 3.0)), "broker_s": chance.choice((0.0, 6.0))}
        case "partition":
            return "partition", {"who": who, "for_s": short, "broker_s": chance.choice((0.0, 6.0))}
        case "broker":
            return "broker", {"down_s": short, "forget": chance.random() < 0.5}
        case _:
            return "full", {"who": who, "for_s": short}
