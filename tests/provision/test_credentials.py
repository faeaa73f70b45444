from __future__ import annotations

import subprocess
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import env_file
from provision.credentials import complete, env_prefix, is_ours
from provision.local import provision_local
from swashplate.errors import ConfigurationError

ALL = complete({}, 4).as_env()
PARTS = st.sets(st.sampled_from(sorted(ALL)))


@given(PARTS, st.integers(1, 6))
def test_whatever_exists_is_kept_and_the_rest_is_completed(kept, proplets):
    known = {key: ALL[key] for key in kept}
    found = complete(known, proplets)
    assert found.as_env().items() >= known.items()
    assert len(found.proplets) >= proplets
    assert complete(found.as_env(), proplets) == found


def test_a_new_set_has_the_guides_variables_and_distinct_random_values():
    found = complete({}, 3)
    assert list(found.as_env()) == [
        *(f"{who}_DOMAIN_ID" for who in ("MANAGER", "PROPLET", "PROXY")),
        *(f"{who}_CHANNEL_ID" for who in ("MANAGER", "PROPLET", "PROXY")),
        *(
            f"{who}_CLIENT_{part}"
            for who in ("MANAGER", "PROPLET", "PROPLET_2", "PROPLET_3", "COORDINATOR", "PROXY")
            for part in ("ID", "KEY")
        ),
    ]
    assert [c.name for c in found.clients] == [
        *("manager", "proplet-1", "proplet-2", "proplet-3", "fl-coordinator", "proxy")
    ]
    assert len({found.domain_id, found.channel_id, *(c.id for c in found.clients)}) == 8
    assert len({c.key for c in found.clients}) == 6
    assert all(uuid.UUID(c.id).version == 4 and len(c.key) == 64 and c.key.isalnum() for c in found.clients)


@pytest.mark.parametrize(
    ("name", "prefix"), [("proplet-1", "PROPLET"), ("proplet-12", "PROPLET_12"), ("proxy", "PROXY")]
)
def test_env_prefix(name, prefix):
    assert env_prefix(name) == prefix


def test_more_proplets_are_added_and_fewer_remove_none():
    two = complete({}, 2)
    five = complete(two.as_env(), 5)
    assert five.as_env().items() > two.as_env().items()
    assert complete(five.as_env(), 1) == five


def test_a_gap_in_the_numbers_is_not_filled_beyond_what_was_asked_for():
    found = complete({"PROPLET_7_CLIENT_ID": "seven", "PROPLET_5_CLIENT_ID": ""}, 2)
    assert [c.name for c in found.proplets] == ["proplet-1", "proplet-2", "proplet-7"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"MANAGER_DOMAIN_ID": "a", "PROXY_DOMAIN_ID": "b"}, ["MANAGER_DOMAIN_ID=a", "PROXY_DOMAIN_ID=b"]),
        ({"MANAGER_CHANNEL_ID": "a", "PROPLET_CHANNEL_ID": "b"}, ["MANAGER_CHANNEL_ID", "PROPLET_CHANNEL_ID"]),
        ({"PROXY_CLIENT_ID": "<YOUR_PROXY_CLIENT_ID>"}, ["PROXY_CLIENT_ID"]),
        ({"PROPLET_CLIENT_ID": "a/b"}, ["PROPLET_CLIENT_ID"]),
        ({"PROPLET_2_CLIENT_ID": "a.b"}, ["PROPLET_2_CLIENT_ID"]),
        ({"MANAGER_DOMAIN_ID": "a b"}, ["MANAGER_DOMAIN_ID"]),
        ({"MANAGER_CLIENT_ID": "\udce9"}, ["MANAGER_CLIENT_ID"]),
        ({"PROPLET_CLIENT_ID": "manager"}, ["PROPLET_CLIENT_ID"]),
        ({"PROPLET_CLIENT_ID": "a", "PROPLET_3_CLIENT_ID": "a"}, ["PROPLET_CLIENT_ID", "PROPLET_3_CLIENT_ID"]),
        (
            {"MANAGER_CLIENT_ID": "a", "PROXY_CLIENT_ID": "a", "MANAGER_CLIENT_KEY": "secret-one"},
            ["MANAGER_CLIENT_ID", "PROXY_CLIENT_ID"],
        ),
        ({"PROXY_CLIENT_KEY": "secret one"}, ["PROXY_CLIENT_KEY"]),
    ],
)
def test_values_that_cannot_be_are_refused_naming_the_variables_but_no_key(values, named):
    with pytest.raises(ConfigurationError) as raised:
        complete(values, 3)
    assert all(name in raised.value.sentence for name in named)
    assert "secret" not in f"{raised.value.sentence} {raised.value.hint}"


def test_services_may_share_a_client_with_one_key():
    shared = {f"{who}_CLIENT_{part}": part for who in ("MANAGER", "PROXY") for part in ("ID", "KEY")}
    found = complete(shared, 1)
    assert found.client("manager").id == found.client("proxy").id == "ID"


def test_keys_do_not_show_in_the_representation():
    found = complete({}, 1)
    assert not any(c.key in repr(found) for c in found.clients)


def test_provisioning_again_changes_nothing_and_returns_the_same(tmp_path):
    first, changed = provision_local(tmp_path / ".env", 3)
    assert changed
    assert provision_local(tmp_path / ".env", 3) == (first, False)
    assert provision_local(tmp_path / ".env", 2) == (first, False)


def test_the_guides_shell_lines_read_what_was_written(tmp_path):
    path = tmp_path / ".env"
    path.write_text('PROPLET_CLIENT_ID=""\n# PROPLET_2_CLIENT_ID=\nPROXY_REGISTRY_URL=ghcr.io\nPROPLET_CLIENT_ID=""\n')
    found, _ = provision_local(path, 3)
    for key, value in found.as_env().items():
        line = f"grep '^{key}=' .env | grep -v '=\"\"' | tail -1 | cut -d '=' -f2 | tr -d '\"'"
        assert subprocess.check_output(line, shell=True, cwd=tmp_path, text=True) == f"{value}\n"
    sourced = subprocess.check_output(". ./.env; echo $PROPLET_CLIENT_KEY", shell=True, cwd=tmp_path, text=True)
    assert sourced.strip() == found.client("proplet-1").key
    assert env_file.read(path)["PROXY_REGISTRY_URL"] == "ghcr.io"


def test_the_newer_names_of_the_same_things_count_where_ours_are_not_set():
    found = complete({"MANAGER_TENANT_ID": "d", "PROPLET_2_ENTITY_ID": "p2", "PROPLET_2_API_KEY": "k2"}, 2)
    assert found.domain_id == "d"
    assert (found.client("proplet-2").id, found.client("proplet-2").key) == ("p2", "k2")


def test_two_names_of_one_thing_with_different_values_are_refused():
    with pytest.raises(ConfigurationError, match="MANAGER_TENANT_ID and MANAGER_DOMAIN_ID"):
        complete({"MANAGER_TENANT_ID": "d", "MANAGER_DOMAIN_ID": "e"}, 1)


def test_what_is_ours_is_what_we_write():
    assert all(map(is_ours, complete({}, 12).as_env()))
    assert not any(
        map(is_ours, ["PROPLET_1_CLIENT_ID", "MANAGER_TENANT_ID", "PROXY_REGISTRY_URL", "XMANAGER_CLIENT_ID"])
    )
