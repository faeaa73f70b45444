"""How much is asked."""

from __future__ import annotations

import pytest


@pytest.fixture(
    params=[
        pytest.param(4, id="few"),
        pytest.param(150, id="many", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ]
)
def examples(request):
    return request.param
