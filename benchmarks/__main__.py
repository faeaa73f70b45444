"""``python -m benchmarks [NAME] [--json] [options of the benchmark]``."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import dataset, fl_round, fleet, proplet_memory, runtime, store, tasks
from benchmarks.report import Report

BENCHMARKS = {
    "fl-round": fl_round,
    "tasks": tasks,
    "fleet": fleet,
    "store": store,
    "runtime": runtime,
    "dataset": dataset,
    "proplet-memory": proplet_memory,
}


def shown(report: Report) -> str:
    lines = [f"{report.name}: {report.ours:.4g} {report.unit} (median of {report.runs} runs)"]
    for name, baseline in report.baselines.items():
        value = baseline["cited"] if isinstance(baseline, dict) else baseline
        source = f", cited: {baseline['source']}" if isinstance(baseline, dict) else ", measured in the same run"
        lines.append(f"  {name}: {value:.4g} {report.unit}{source}")
    lines.append(f"  ratio to the first baseline: {report.ratio:.3g}")
    lines += [f"  {name}: {json.dumps(value)}" for name, value in report.details.items()]
    lines.append(f"  machine: {report.machine}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
        module.arguments(command)
    options = parser.parse_args()
    if options.name is None:
        for name, module in BENCHMARKS.items():
            print(f"{name:<12}{(module.__doc__ or '').splitlines()[0]}")
        return 0
    report = BENCHMARKS[options.name].run(options)
    print(json.dumps(report.as_json()) if options.json else shown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
