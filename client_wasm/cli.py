"""``swashplate demo``."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from client_wasm.demo import Report, Round


def _line(done: Round) -> str:
    return (
        f"round {done.number:>3}   updates {done.updates}/{done.participants}   loss {done.loss:.4f}   "
        f"test accuracy {done.accuracy:.4f}   {done.milliseconds:6.0f} ms"
    )


def _table(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    table.add_column("test accuracy", justify="right")
    table.add_column("trained on", no_wrap=True)
    sites = len(report.site_rows)
    table.add_row("federated", f"{report.accuracy:.4f}", f"{sites} sites, no row left its site")
    total = sum(rows for rows, _ in report.site_rows.values())
    table.add_row("centralised", f"{report.central_accuracy:.4f}", f"all {total} rows in one place")
    for name, accuracy in report.site_accuracy.items():
        rows, share = report.site_rows[name]
        table.add_row(f"{name} alone", f"{accuracy:.4f}", f"{rows} rows, {share:.0%} malignant")
    console = Console()
    console.print(table)
    times = sorted(done.milliseconds for done in report.rounds)
    console.print(f"median round {times[len(times) // 2]:.0f} ms, cold start {report.cold_start_ms:.0f} ms")
    console.print(f"model v{report.model_version}: {report.model_file}", highlight=False, soft_wrap=True)


def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many rounds to train.")] = 10,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, progress on stderr.")] = False,
) -> None:
    """Train one model across three sites on real medical data, every service a real process, and compare it."""
    from client_wasm import demo as demonstration

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def on_round(done: Round) -> None:
        print(_line(done), file=sys.stderr if as_json else sys.stdout, flush=True)

    async def run() -> Report:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await demonstration.run(rounds, keep=keep, progress=progress, on_round=on_round)

    try:
        report = asyncio.run(run())
    except asyncio.CancelledError:
        progress("interrupted; everything is stopped")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _table(report)
    if keep:
        progress(f"the stack is still running; stop it with: swashplate down --state-dir {report.state_dir}")
