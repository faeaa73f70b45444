"""Asking the proxy what an image is."""

from __future__ import annotations

import random

import pytest

from manager.work import images as asking
from manager.work.images import Binary, Images
from swashplate.bus import MemoryBroker, MemoryBus, Received
from swashplate.errors import UnavailableError
from swashplate.messages import Resolve, Resolved
from swashplate.testing import Faults, FaultyBroker, FaultyBus
from swashplate.topics import Topics


async def test_a_proxy_that_does_not_answer_is_named_and_not_waited_for_a_second_time():
    async with MemoryBus(MemoryBroker(), client_id="manager") as bus:
        images = Images(bus, Topics("d", "c"), timeout=0.05)
        await images.open()
        with pytest.raises(UnavailableError, match="the registry proxy did not say") as silent:
            await images.resolve("registry/image:1")
    assert (silent.value.code, silent.value.retryable) == ("proxy_unreachable", False)
    assert "is the proxy running" in (silent.value.hint or "")


async def test_a_question_that_is_lost_is_asked_again(monkeypatch):
    monkeypatch.setattr(asking, "ASK_AGAIN_S", 0.05)
    names = Topics("d", "c")
    broker = FaultyBroker(random.Random(1), Faults(loss=1.0))  # of what goes out without acknowledgement
    ours, proxys = FaultyBus(broker, client_id="manager"), FaultyBus(broker, client_id="proxy")

    async def answer(message: Received) -> None:
        asked = Resolve.decode(message.payload)
        said = Resolved(request_id=asked.request_id, image=asked.image, digest="sha256:" + "ab" * 32, size=10)
        await proxys.publish(names.resolve_reply, said.encode())

    await proxys.subscribe(names.resolve_request, answer)
    images = Images(ours, names, timeout=10)
    await images.open()
    async with ours, proxys:
        await ours.wait_connected(10)
        await proxys.wait_connected(10)
        assert await images.resolve("registry/image:1") == Binary("sha256:" + "ab" * 32, 10)
