"""Asking the proxy what an image is."""

from __future__ import annotations

import pytest

from manager.work.images import Images
from swashplate.bus import MemoryBroker, MemoryBus
from swashplate.errors import UnavailableError
from swashplate.topics import Topics


async def test_a_proxy_that_does_not_answer_is_named_and_not_waited_for_a_second_time():
    async with MemoryBus(MemoryBroker(), client_id="manager") as bus:
        images = Images(bus, Topics("d", "c"), timeout=0.05)
        await images.open()
        with pytest.raises(UnavailableError, match="the registry proxy did not say") as silent:
            await images.resolve("registry/image:1")
    assert (silent.value.code, silent.value.retryable) == ("proxy_unreachable", False)
    assert "is the proxy running" in (silent.value.hint or "")
