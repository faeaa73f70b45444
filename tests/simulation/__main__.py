"""``python -m tests.simulation``: many schedules, or one again with all that happens in it. ``scripts/simulate`` calls it."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

import structlog

from tests.simulation.world import Outcome, simulate
from tests.support.quiet import silent

CHUNK = 25
ENOUGH = 5
"""So many failing seeds are enough to look at."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000, help="how many, default 1000")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed, default 0")
    parser.add_argument("--seed", type=int, help="this one alone, with everything that happens in it")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one per core")
    asked = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings must have the same order every time
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    return replay(asked.seed) if asked.seed is not None else many(asked.first, asked.schedules, asked.processes)


def replay(seed: int) -> int:
    lines = 0

    def tell(line: str) -> None:
        nonlocal lines
        lines += 1
        print(line)

    def log(_logger: object, method: str, event: dict) -> None:
        said = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"event", "component"})
        tell(f"{'':9}   {event.get('component', '')} {method}: {event['event']} {said}")
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info, log])
    outcome = simulate(seed, trace=tell)
    print(f"seed {seed}: {outcome.broken or 'all is well'} ({outcome.seconds:.0f} s, {lines} lines)")
    return 1 if outcome.broken else 0


def many(first: int, count: int, processes: int) -> int:
    began, done, failed, seconds = time.monotonic(), 0, 0, 0.0
    seen: Counter[str] = Counter()
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    with multiprocessing.get_context("fork").Pool(processes, initializer=silent) as pool:
        for outcomes in pool.imap(run_chunk, chunks):
            for outcome in outcomes:
                done, seconds = done + 1, seconds + outcome.seconds
                seen += outcome.seen
                if outcome.broken:
                    failed += 1
                    print(f"scripts/simulate --seed {outcome.seed}  # {outcome.broken}", flush=True)
            if done % 500 < CHUNK:
                print(f"{done} schedules, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
            if failed >= ENOUGH:
                print("that is enough")
                pool.terminate()
                break
    for what, times in sorted(seen.items()):
        print(f"{times:8} {what}")
    took = time.monotonic() - began
    print(
        f"{done} schedules from seed {first}: {failed} failed; {seconds / 3600:.1f} hours in {took:.0f} s,"
        f" {1000 * took * processes / max(done, 1):.1f} ms each on a core"
    )
    return 1 if failed else 0


def run_chunk(seeds: range) -> list[Outcome]:
    try:
        return list(outcomes(seeds))
    finally:
        gc.collect()


def outcomes(seeds: range) -> Iterator[Outcome]:
    for seed in seeds:
        try:
            yield simulate(seed)
        except Exception:  # noqa: BLE001  # the simulation's own fault, but a seed to look at all the same
            yield Outcome(seed, traceback.format_exc().replace("\n", " | "), 0.0, Counter())


if __name__ == "__main__":
    sys.exit(main())
