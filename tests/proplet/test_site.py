"""What a proplet says when no manager shows itself."""

from __future__ import annotations

from proplet import site
from swashplate.messages import Announce
from swashplate.topics import Topics

ANNOUNCE = Topics("d", "c").announce


async def test_a_channel_without_a_manager_is_said_with_the_settings_to_compare(world, logged, monkeypatch):
    monkeypatch.setattr(site, "ANNOUNCE_WITHIN_S", 0.05)
    async with world.proplet():
        line = await logged.until("no manager has announced itself")
        assert line["topic"] == ANNOUNCE
        assert "PROPLET_CHANNEL_ID" in line["hint"]
        assert "MANAGER_CHANNEL_ID" in line["hint"]
        await world.manager.bus.publish(ANNOUNCE, Announce(heartbeat_s=5).encode())
        await logged.until("the manager has announced itself")
