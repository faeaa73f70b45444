"""Documentation made from the code, so that it cannot drift: every setting, and every state machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import coordinator.settings
import coordinator.states
import manager.settings
import manager.state.states
import proplet.settings
import proplet.work.states
import provision.identity.settings
import proxy.settings
from swashplate.settings import Settings

ROOT = Path(__file__).resolve().parent.parent

PROCESSES: list[tuple[str, type[Settings]]] = [
    ("manager", manager.settings.ManagerSettings),
    ("proplet", proplet.settings.PropletSettings),
    ("proplet.data_store (local data store)", proplet.settings.DataStoreSettings),
    ("proxy", proxy.settings.ProxySettings),
    ("proxy.registry (embedded OCI registry)", proxy.settings.RegistrySettings),
    ("coordinator", coordinator.settings.CoordinatorSettings),
    ("coordinator.registry (model registry)", coordinator.settings.RegistrySettings),
    ("coordinator.aggregator", coordinator.settings.AggregatorSettings),
    ("provision.identity", provision.identity.settings.IdentitySettings),
]

MACHINES: list[tuple[str, Mapping[Any, Any]]] = [
    ("Task (`manager/state/states.py`)", manager.state.states.TASK),
    ("Attempt, as the manager sees it (`manager/state/states.py`)", manager.state.states.ATTEMPT),
    ("Invocation of a latent task (`manager/state/states.py`)", manager.state.states.INVOCATION),
    ("Attempt, in the proplet's journal (`proplet/work/states.py`)", proplet.work.states.TRANSITIONS),
    ("Round (`coordinator/states.py`)", coordinator.states.ROUND),
    ("Participant of a round (`coordinator/states.py`)", coordinator.states.PARTICIPANT),
]


def shown_default(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "" if value is None or value == () or not text else f"`{text}`"


def settings_page() -> str:
    """Every setting of every process: names in order of precedence, default, help."""
    lines = [
        "# Settings",
        "",
        "Every process reads its environment; the ids and keys may instead stand in `config.toml` (or the file that",
        "`SWASHPLATE_CONFIG_FILE` names). Where several names are given, the first that is set and not empty wins.",
        "Durations are `30s`, `500ms`, `1m30s` or plain seconds. Made by `scripts/docs`; do not edit.",
        "",
        "A process whose ids and key are nowhere to be found waits for `config.toml`; any other wrong setting ends it.",
        "",
        "A service with a token lets nobody in without it: `Authorization: Bearer <token>`, or, at the OCI registry, the",
        "token as the password of any user. Callers find the token of the service they call under the same name. `/health`",
        "is open. Beyond this machine a service serves only with a token, or when its `…_HTTP_INSECURE` says so.",
    ]
    for process, kind in PROCESSES:
        lines += ["", f"## python -m {process}", "", "| setting | default | what it does |", "| --- | --- | --- |"]
        for name, field in kind.model_fields.items():
            names = ", ".join(f"`{each}`" for each in kind.names(name))
            default = field.get_default(call_default_factory=True)
            lines.append(f"| {names} | {shown_default(default)} | {field.description} |")
        if kind.identity:
            keys = ", ".join(f"`{'` or `'.join(dict.fromkeys(entry[1:]))}`" for entry in kind.identity)
            lines += ["", f"In `config.toml`, section `[{kind.section}]`: {keys}."]
    return "\n".join(lines) + "\n"


def word(value: Enum) -> str:
    return str(value.value if isinstance(value.value, str) else value.name.lower()).replace("_", " ")


def state_tables() -> str:
    """One table per machine: what may happen in which state, and what state follows."""
    parts = []
    for title, table in MACHINES:
        parts += [f"**{title}**", "", "| in | on | becomes |", "| --- | --- | --- |"]
        parts += [f"| {word(state)} | {word(event)} | {word(after)} |" for (state, event), after in table.items()]
        parts.append("")
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    architecture = ROOT / "ARCHITECTURE.md"
    text = re.sub(
        r"(<!-- states -->\n).*?(<!-- end of states -->)",
        lambda found: found[1] + "\n" + state_tables() + found[2],
        architecture.read_text(),
        flags=re.DOTALL,
    )
    return {ROOT / "docs" / "settings.md": settings_page(), architecture: text}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages()[path])
            print(f"wrote {path.relative_to(ROOT)}")
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is out of date; run scripts/docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
