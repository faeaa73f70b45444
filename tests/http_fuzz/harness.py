"""schemathesis against a service that runs: what it asked, what was answered, and what it found wrong."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

SEED = 20261122
MANY = 50
"""From so many examples on, chains of requests are tried too: one uses what another made."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


OWN = r"^/(health|metrics|openapi\.json|docs)$"
"""What every service has alike; asked of one of them."""


@dataclass
class Report:
    """``answers`` counts statuses by operation, ``failures`` says what was wrong and how to ask for it again."""

    answers: dict[str, Counter[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return sum(counts.total() for counts in self.answers.values())

    def share_of_successes(self) -> float:
        return sum(n for counts in self.answers.values() for s, n in counts.items() if s < 300) / max(self.asked, 1)

    def never_succeeded(self) -> set[str]:
        return {name for name, counts in self.answers.items() if not any(status < 300 for status in counts)}

    def __str__(self) -> str:
        lines = [f"{name}: {dict(sorted(counts.items()))}" for name, counts in sorted(self.answers.items())]
        return "\n".join((*lines, *self.failures))


def undescribed(document: dict[str, Any]) -> list[str]:
    """What a reader of the description would miss."""
    missing = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            missing += [f"{name}: {word}" for word in ("summary", "tags", "operationId") if not operation.get(word)]
            missing += [f"{name}: {p['name']}" for p in operation.get("parameters", []) if not p.get("description")]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if not content.get("schema") or not ("example" in content or "format" in str(content["schema"])):
                    missing.append(f"{name}: an example of the body")
            for status, response in operation["responses"].items():
                content = next(iter(response.get("content", {}).values()), None)
                if int(status) >= 400 and not (content and content.get("schema")):
                    missing.append(f"{name}: the shape of {status}")
                if status == "200" and method != "head" and content is None:
                    missing.append(f"{name}: what {status} brings")
                if content is not None and "schema" not in content and "example" not in content:
                    missing.append(f"{name}: what {status} brings")
    return missing


def fuzz(
    url: str,
    *,
    examples: int,
    headers: dict[str, str] | None = None,
    exclude: str = "",
    known: dict[str, list[str]] | None = None,
    brief: tuple[str, ...] = (),
    seed: int = SEED,
) -> Report:
    """Ask the service at ``url`` all that its own description allows, and much that it does not.

    ``known`` maps parameters such as ``path.task_id`` to values that exist; two of three requests take one of them.
    Paths like ``brief`` are asked at random only: their bodies are those of another path.
    """
    known = known or {}
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": headers or {},
            "request-timeout": 20,
            "continue-on-failure": True,
            "dictionaries": {_word(name): {"values": values} for name, values in known.items()},
            "parameters": {
                **{name: {"dictionary": _word(name), "probability": 0.67} for name in known},
                "query.wait": 0.05,
            },
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
            "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
            "phases": {"stateful": {"enabled": examples > MANY}},
            "operations": [
                {"include-path-regex": briefly, "phases": {"coverage": {"enabled": examples > MANY}}}
                for briefly in brief
            ],
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config, headers=headers or {})
    report = Report(failures=[f"not described: {what}" for what in undescribed(dict(schema.raw_schema))])
    if exclude:
        schema = schema.exclude(path_regex=exclude)
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _note(event.recorder, report)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            report.failures.append(f"schemathesis: {getattr(event, 'info', None) or event.exception}")
    return report


def _word(name: str) -> str:
    return name.replace(".", "-")


def _note(recorder: Any, report: Report) -> None:
    for case_id, interaction in recorder.interactions.items():
        case = recorder.cases[case_id].value
        if interaction.response is None:
            report.failures.append(f"{case.as_curl_command()}: no answer")
            continue
        if case.method.upper() != case.operation.method.upper():
            continue  # asked whether another method is refused
        operation = f"{case.operation.method.upper()} {case.operation.path}"
        report.answers.setdefault(operation, Counter())[interaction.response.status_code] += 1
    for checks in recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                failure, sample = check.failure_info.failure, check.failure_info.code_sample
                report.failures.append(
                    f"{recorder.label}: {check.name}: {failure.title}: {failure.message}\n  {sample}"
                )


def judge(report: Report, *, share: float, without_success: set[str] = frozenset(), most: int = 0) -> None:
    """``without_success`` are operations that nothing random can make succeed; ``most`` others may not have, by chance."""
    print(report)
    assert not report.failures, "\n\n".join(report.failures)
    assert len(report.never_succeeded() - without_success) <= most
    assert report.share_of_successes() >= share


@contextmanager
def in_a_thread(service: AbstractAsyncContextManager[Any]):
    """Run ``service`` in an event loop of its own beside the test; yields what it yields."""
    ready, done = threading.Event(), threading.Event()
    found: list[Any] = []
    trouble: list[BaseException] = []

    async def live() -> None:
        async with service as given:
            found.append(given)
            ready.set()
            await asyncio.to_thread(done.wait)

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001  # told to the test
            trouble.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(30)
    if trouble:
        raise trouble[0]
    try:
        yield found[0]
    finally:
        done.set()
        thread.join(30)
        if trouble:
            raise trouble[0]
