from __future__ import annotations

import pytest


@pytest.fixture(params=["embedded", "mosquitto"])
def kind(request):
    """The brokers that we configure; what passes and what does not is the same with each."""
    return request.param


@pytest.fixture
def broker(make_broker, kind):
    with make_broker(kind) as running:
        yield running
