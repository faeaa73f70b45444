"""Thousands of services log nothing here."""

from __future__ import annotations

import pytest
import structlog

from tests.support.quiet import silent


@pytest.fixture(autouse=True, scope="module")
def quiet():
    before = structlog.get_config()
    silent()
    structlog.configure(cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)
