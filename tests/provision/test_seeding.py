"""What the env file says becomes what the identity service knows."""

from __future__ import annotations

import pytest

from provision.brokers import hashed
from provision.credentials import complete
from provision.identity import access
from provision.identity.records import Client, Domain, Records
from provision.identity.seeding import seed
from swashplate.errors import ConfigurationError, SwashplateError


def seeded(records: Records | None = None, **env: str) -> Records:
    found = (records or Records()).copied()
    seed(found, complete(env, 2), "now")
    return found


IDS = {
    "MANAGER_DOMAIN_ID": "d",
    "MANAGER_CHANNEL_ID": "c",
    "MANAGER_CLIENT_ID": "m",
    "MANAGER_CLIENT_KEY": "mk",
    "PROPLET_CLIENT_ID": "p1",
    "PROPLET_CLIENT_KEY": "p1k",
    "PROPLET_2_CLIENT_ID": "p2",
    "PROPLET_2_CLIENT_KEY": "p2k",
    "COORDINATOR_CLIENT_ID": "co",
    "COORDINATOR_CLIENT_KEY": "cok",
    "PROXY_CLIENT_ID": "px",
    "PROXY_CLIENT_KEY": "pxk",
}


def test_seeding_again_changes_nothing():
    once = seeded(**IDS)
    assert seeded(once, **IDS) == once
    assert Records.model_validate_json(once.model_dump_json()) == once


def test_every_client_has_the_access_list_of_its_role():
    users = {user.id: user for user in access.users(seeded(**IDS))}
    assert set(users) == {"m", "p1", "p2", "co", "px"}
    assert users["p1"].grants.publish == ("m/d/c/c/control/proplet/p1/#", "m/d/c/c/registry/proplet/p1")
    assert users["px"].grants.publish == ("m/d/c/c/registry/#",)
    assert all(users[id_].key.matches(f"{id_}k") for id_ in users)


def test_a_changed_key_is_the_key_and_what_was_revoked_stays_so():
    before = seeded(**IDS)
    before.replace_client(before.clients["p1"].changed(status="disabled"))
    after = seeded(before, **{**IDS, "MANAGER_CLIENT_KEY": "fresh"})
    assert after.clients["m"].key.matches("fresh")
    assert after.clients["p1"].status == "disabled"
    assert "p1" not in {user.id for user in access.users(after)}


def test_who_bore_a_name_under_another_id_is_gone_and_others_stay():
    before = seeded(**IDS)
    before.add_client(Client(id="guest", domain_id="d", name="guest", key=hashed("g")))
    after = seeded(before, **{**IDS, "MANAGER_CLIENT_ID": "m2"})
    assert set(after.clients) == {"m2", "p1", "p2", "co", "px", "guest"}
    assert not any(each.client_id == "m" for each in after.connections.values())


def test_another_domain_id_ends_all_that_was_in_the_old_one_and_spares_other_domains():
    before = seeded(**IDS)
    before.add_domain(Domain(id="mine", name="mine", route="mine"))
    after = seeded(before, **{**IDS, "MANAGER_DOMAIN_ID": "d2"})
    assert set(after.domains) == {"d2", "mine"}
    assert {client.domain_id for client in after.clients.values()} == {"d2"}
    assert {channel.domain_id for channel in after.channels.values()} == {"d2"}


def test_two_services_with_one_client_have_the_rights_of_both():
    records = seeded(**{**IDS, "PROXY_CLIENT_ID": "m", "PROXY_CLIENT_KEY": "mk"})
    user = next(user for user in access.users(records) if user.id == "m")
    assert {"m/d/c/c/control/#", "m/d/c/c/registry/#"} <= set(user.grants.publish)
    assert seeded(records, **{**IDS, "PROXY_CLIENT_ID": "m", "PROXY_CLIENT_KEY": "mk"}) == records


@pytest.mark.parametrize(
    ("name", "value"), [("PROXY_CLIENT_KEY", "x" * 73), ("PROXY_CLIENT_ID", "a:b")], ids=["long key", "colon in an id"]
)
def test_what_no_broker_could_take_is_refused_by_the_name_of_its_variable(name, value):
    with pytest.raises(ConfigurationError, match=name):
        seeded(**{**IDS, name: value})


def test_an_id_of_another_domain_is_refused_and_nothing_is_changed():
    before = seeded(**IDS)
    before.add_domain(Domain(id="mine", name="mine", route="mine"))
    before.add_client(Client(id="theirs", domain_id="mine", name="x", key=hashed("x")))
    with pytest.raises(SwashplateError, match="theirs"):
        seeded(before, **{**IDS, "MANAGER_CLIENT_ID": "theirs"})


@pytest.mark.parametrize("legacy", [{"legacy": True}, {}])
def test_the_shared_topics_are_granted_to_all_or_to_one_or_to_nobody(legacy):
    records = seeded(**IDS)
    shared = "m/d/c/c/control/proplet/create"
    assert not any(shared in user.grants.publish for user in access.users(records))
    if legacy:
        assert sum(shared in user.grants.publish for user in access.users(records, **legacy)) == 2
    else:
        one = records.clients["p1"]
        records.replace_client(one.changed(metadata={**one.metadata, "legacy": True}))
        assert [user.id for user in access.users(records) if shared in user.grants.publish] == ["p1"]
