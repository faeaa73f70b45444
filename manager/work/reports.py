"""What is kept of a run's report, which a proplet may have filled with anything. Pure."""

from __future__ import annotations

import json

from swashplate.messages import RunLimits, RunReport

MOST_CHARS = 32 * 1024
MOST_NAMES, MOST_NAME = 128, 256
MOST_TAIL = 4096
NAMES = frozenset(RunLimits.model_fields)
_encoded = json.JSONEncoder(ensure_ascii=False).encode


def kept(report: RunReport | None) -> str | None:
    """As it is stored, in JSON: what has another name than a limit, and what is too long, is left out."""
    if report is None:
        return None
    found = report.model_dump(exclude_defaults=True)
    for name in ("limits", "used"):
        if name in found:
            found[name] = {key: value for key, value in found[name].items() if key in NAMES}
    if "capabilities" in found:
        found["capabilities"] = {
            name: [entry[:MOST_NAME] for entry in entries[:MOST_NAMES]]
            for name, entries in found["capabilities"].items()
        }
    if "log_tail" in found:
        found["log_tail"] = found["log_tail"][-MOST_TAIL:]
    found["isolation"] = report.isolation
    text = _encoded(found)
    for name in ("details", "capabilities", "log_tail"):
        if len(text) > MOST_CHARS and found.pop(name, None) is not None:
            text = _encoded(found)
    return text
