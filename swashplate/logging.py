"""Structured logs: JSON lines with ``time``, ``level``, ``msg`` first; readable text on a terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}


class _Unfailing(io.TextIOBase):
    """A stream that loses a line when its disk is full or its reader is gone: the work that the line is about goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _shape(_: Any, __: str, event: EventDict) -> EventDict:
    level = str(event.pop("level", "info")).upper()
    return {
        "time": event.pop("timestamp", ""),
        "level": "WARN" if level == "WARNING" else level,
        "msg": event.pop("event", ""),
        **event,
    }


def configure(level: str = "info", *, service: str = "") -> None:
    """Send every log line of this process, ours and the libraries', to stderr."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    final: list[Processor]
    if sys.stderr.isatty():
        final = [structlog.dev.ConsoleRenderer()]
    else:
        final = [_shape, structlog.processors.JSONRenderer()]
    stream = cast("TextIO", _Unfailing(sys.stderr))
    threshold = _LEVELS.get(level.lower(), 20)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    if service:
        structlog.contextvars.bind_contextvars(service=service)


def get(name: str) -> Any:
    """A logger whose lines carry ``component=name``."""
    return structlog.get_logger(component=name)
