"""No log lines: where thousands of services run, they would cost more than the services."""

from __future__ import annotations

import structlog


def silent() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True)
