"""What provisioning makes of an identity service and an env file, whatever interrupts it."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from provision import env_file, files, provision_smq, supermq
from provision.credentials import complete, is_ours
from provision.local import prepare_broker, provision_local
from swashplate.errors import ConfigurationError, ConflictError, SwashplateError
from tests.support.ports import free_port
from tests.support.supermq import front, identity, provision

NAMES = ["manager", "proplet-1", "proplet-2", "proplet-3", "fl-coordinator", "proxy"]
KEYS = [
    *(f"{who}_{what}_ID" for what in ("DOMAIN", "CHANNEL") for who in ("MANAGER", "PROPLET", "PROXY")),
    *(
        f"{who}_CLIENT_{what}"
        for who in ("MANAGER", "PROPLET", "PROPLET_2", "PROPLET_3", "COORDINATOR", "PROXY")
        for what in ("ID", "KEY")
    ),
]
REQUESTS = 13  # of a first run with three proplets: token, 2 domain, 1 + 6 clients, 2 channel, connect
EXISTING = b"# Mine\nPROXY_REGISTRY_URL=ghcr.io\n\nMANAGER_CLIENT_ID=\nexport OTHER='x y'\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.parent.glob(".env*")}


async def test_a_first_run_makes_everything_and_writes_exactly_the_guides_variables(path, tmp_path, capsys):
    path.write_bytes(EXISTING)
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        values = env_file.read(path)
        assert set(values) == {*KEYS, "PROXY_REGISTRY_URL", "OTHER"}
        assert path.read_bytes().startswith(b"# Mine\nPROXY_REGISTRY_URL=ghcr.io\n\nMANAGER_CLIENT_ID=")
        assert path.with_name(".env.bak").read_bytes() == EXISTING
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.with_name(".env.bak").stat().st_mode) == 0o600
        found = complete(values, 3)
        assert {client.name: [client.id] for client in found.clients} == await service.clients()
        [domain] = await service.all("domains", "/domains")
        [channel] = await service.all("channels", f"/{domain['id']}/channels")
        assert (domain["name"], domain["route"], domain["id"]) == ("fl-demo", "fl-demo", found.domain_id)
        assert (channel["name"], channel["id"]) == ("fl", found.channel_id)
        roles = {
            each["name"]: each["metadata"]["role"] for each in await service.all("clients", f"/{domain['id']}/clients")
        }
        assert roles == {client.name: client.role for client in found.clients}
        for client in found.clients:
            assert service.lets_in(client.id, client.key)
            assert any(found.topics.base in topic for topic in service.topics(client.id))
        shown = capsys.readouterr().out
        assert all(client.id in shown and client.key in shown for client in found.clients)


async def test_a_second_run_reuses_every_client_and_changes_no_byte(path, tmp_path, capsys):
    path.write_bytes(EXISTING)
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        before, clients = snapshot(path), await service.clients()
        await provision(service.arguments, path)
        assert snapshot(path) == before
        assert await service.clients() == clients
        assert "Nothing changed" in capsys.readouterr().out


@pytest.mark.parametrize("request_number", range(1, REQUESTS + 1))
async def test_interrupted_after_any_request_and_repeated_it_makes_nothing_twice(path, tmp_path, request_number):
    path.write_bytes(EXISTING)
    async with identity(tmp_path, f"drop-after@{request_number}") as service:
        before = snapshot(path)
        with pytest.raises(SwashplateError):
            await provision(service.arguments, path)
        assert snapshot(path) == before
        await provision(service.arguments, path)
        found = complete(env_file.read(path), 3)
        assert await service.clients() == {client.name: [client.id] for client in found.clients}
        assert len(await service.all("domains", "/domains")) == 1
        assert len(await service.all("channels", f"/{found.domain_id}/channels")) == 1
        assert all(service.lets_in(client.id, client.key) and service.topics(client.id) for client in found.clients)
        before = snapshot(path)
        await provision(service.arguments, path)
        assert snapshot(path) == before


async def test_a_first_run_has_no_more_requests_than_were_interrupted(path, tmp_path):
    async with identity(tmp_path, f"drop@{REQUESTS + 1}") as service:
        await provision(service.arguments, path)
        with pytest.raises(SwashplateError):
            await provision(service.arguments, path)


@pytest.mark.parametrize(
    "fault", ["drop@7", "status@5=500", "status@13=503", "text@4", "status@3=403", "status@10=401"]
)
async def test_a_failure_in_the_middle_leaves_the_env_file_and_the_next_run_goes_on(path, tmp_path, fault):
    async with identity(tmp_path, fault) as service:
        with pytest.raises(SwashplateError) as raised:
            await provision(service.arguments, path)
        assert raised.value.hint
        assert not path.exists()
        await provision(service.arguments, path)
        assert {name: len(ids) for name, ids in (await service.clients()).items()} == dict.fromkeys(NAMES, 1)


async def test_clients_of_the_same_name_are_told_apart_by_the_env_file(path, tmp_path):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        domain = env_file.read(path)["MANAGER_DOMAIN_ID"]
        for name in NAMES:
            made = await service.ask("POST", "clients", f"/{domain}/clients", {"name": name})
            if name in {"manager", "proxy"}:
                prefix = name.upper()
                env_file.update(
                    path, {f"{prefix}_CLIENT_ID": made["id"], f"{prefix}_CLIENT_KEY": made["credentials"]["secret"]}
                )
        before = snapshot(path)
        await provision(service.arguments, path)
        assert snapshot(path) == before


async def test_without_an_env_file_the_client_of_the_name_is_taken_and_gets_a_new_key(path, tmp_path):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        first = env_file.read(path)
        path.unlink()
        await provision(service.arguments, path)
        again = env_file.read(path)
        assert {k: v for k, v in again.items() if k.endswith("_ID")} == {
            k: v for k, v in first.items() if k.endswith("_ID")
        }
        assert not {v for k, v in again.items() if k.endswith("_KEY")} & set(first.values())
        for client in complete(again, 3).clients:
            assert service.lets_in(client.id, client.key)


async def test_only_the_client_whose_key_is_missing_gets_a_new_one(path, tmp_path):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        before = env_file.read(path)
        env_file.update(path, {"PROPLET_2_CLIENT_KEY": ""})
        await provision(service.arguments, path)
        after = env_file.read(path)
        assert {key for key in after if after[key] != before[key]} == {"PROPLET_2_CLIENT_KEY"}
        assert service.lets_in(after["PROPLET_2_CLIENT_ID"], after["PROPLET_2_CLIENT_KEY"])


async def test_a_client_of_another_domain_is_not_ours(path, tmp_path):
    async with identity(tmp_path) as service:
        other = await service.ask("POST", "domains", "/domains", {"name": "other", "route": "other"})
        foreign = await service.ask("POST", "clients", f"/{other['id']}/clients", {"name": "manager"})
        path.write_text(f"MANAGER_DOMAIN_ID={other['id']}\nMANAGER_CLIENT_ID={foreign['id']}\nMANAGER_CLIENT_KEY=k\n")
        await provision(service.arguments, path)
        values = env_file.read(path)
        assert values["MANAGER_DOMAIN_ID"] != other["id"]
        assert values["MANAGER_CLIENT_ID"] != foreign["id"]
        assert service.lets_in(values["MANAGER_CLIENT_ID"], values["MANAGER_CLIENT_KEY"])


@pytest.mark.parametrize("in_env_file", [True, False])
async def test_a_client_that_was_shut_out_is_named_and_not_let_in_again(path, tmp_path, in_env_file):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        values = env_file.read(path)
        client = f"/{values['MANAGER_DOMAIN_ID']}/clients/{values['PROPLET_2_CLIENT_ID']}"
        await service.ask("POST", "clients", f"{client}/disable")
        if not in_env_file:
            path.unlink()
        before = snapshot(path)
        with pytest.raises(ConflictError, match="client proplet-2 exists and is disabled"):
            await provision(service.arguments, path)
        assert snapshot(path) == before
        await service.ask("POST", "clients", f"{client}/enable")
        await provision(service.arguments, path)


async def test_what_up_provisioned_is_found_and_left_as_it_is(path, tmp_path):
    credentials, _ = provision_local(path, 3)
    await prepare_broker(tmp_path, credentials, broker="mosquitto", host="127.0.0.1", port=free_port(), legacy=False)
    before = snapshot(path)
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        assert await service.clients() == {client.name: [client.id] for client in credentials.clients}
    assert snapshot(path) == before


async def test_services_that_share_a_client_keep_sharing_it(path, tmp_path):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        values = env_file.read(path)
        env_file.update(path, {f"PROXY_CLIENT_{what}": values[f"MANAGER_CLIENT_{what}"] for what in ("ID", "KEY")})
        before = snapshot(path)
        await provision(service.arguments, path)
        assert snapshot(path) == before


async def test_more_clients_than_one_page_holds_are_all_seen(path, tmp_path, monkeypatch):
    monkeypatch.setattr(supermq, "_PAGE", 5)
    async with identity(tmp_path) as service:
        domain = await service.ask("POST", "domains", "/domains", {"name": "fl-demo", "route": "fl-demo"})
        for number in range(12):
            await service.ask("POST", "clients", f"/{domain['id']}/clients", {"name": f"proplet-{number + 4}"})
        await provision(service.arguments, path)
        path.unlink()
        await provision(service.arguments, path)
        assert set(env_file.read(path)) == set(KEYS)
        listed = await service.ask("GET", "clients", f"/{domain['id']}/clients?limit=1&status=all")
        assert listed["total"] == 12 + len(NAMES)


async def test_count_says_how_many_proplets_and_fewer_remove_none(path, tmp_path):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path, "--count", "5")
        values = env_file.read(path)
        assert [f"PROPLET_{n}_CLIENT_ID" in values for n in (2, 3, 4, 5, 6)] == [True] * 4 + [False]
        before = snapshot(path)
        await provision(service.arguments, path, "--count", "1")
        assert snapshot(path) == before
        for count in ("0", "-1", "1001"):
            with pytest.raises(ConfigurationError, match="--count must be between 1 and 1000"):
                await provision(service.arguments, path, "--count", count)


async def test_a_missing_env_file_begins_as_the_example_beside_it(path, tmp_path):
    example = b"# Ids, written by provisioning\nMANAGER_CLIENT_ID=\n\nPROXY_REGISTRY_URL=http://local-registry:5000\n"
    path.with_name(".env.example").write_bytes(example)
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
    assert path.read_bytes().startswith(b"# Ids, written by provisioning\nMANAGER_CLIENT_ID=")
    assert env_file.read(path)["PROXY_REGISTRY_URL"] == "http://local-registry:5000"
    assert path.with_name(".env.example").read_bytes() == example
    assert not path.with_name(".env.bak").exists()


async def test_two_runs_at_once_make_one_set(path, tmp_path):
    async with identity(tmp_path) as service:
        await asyncio.gather(*(provision(service.arguments, path) for _ in range(3)))
        assert {name: len(ids) for name, ids in (await service.clients()).items()} == dict.fromkeys(NAMES, 1)
        assert all(service.lets_in(each.id, each.key) for each in complete(env_file.read(path), 3).clients)


@pytest.mark.parametrize("how", ["file", "folder", "directory", "backup"])
async def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(path, tmp_path, how, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    path = folder / ".env"
    if how == "directory":
        path.mkdir()
    else:
        path.write_bytes(EXISTING)
        if how == "file":
            path.chmod(0o400)
        if how == "backup":
            (folder / ".env.bak").mkdir()
    if how == "folder":  # root may write in any: the system has to say no for another reason

        def read_only(**_: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(files.tempfile, "TemporaryFile", read_only)
    async with identity(tmp_path) as service:
        with pytest.raises(
            ConfigurationError, match=r"\.env is read-only|Read-only file system|\.env(\.bak)? is a directory"
        ):
            await provision(service.arguments, path)
        assert await service.clients() == {}


async def test_the_ids_and_keys_are_shown_when_the_file_cannot_be_written_in_the_end(
    path, tmp_path, monkeypatch, capsys
):
    replace = Path.replace

    def full_disk(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    path.write_bytes(EXISTING)
    async with identity(tmp_path) as service:
        monkeypatch.setattr(Path, "replace", full_disk)
        with pytest.raises(ConfigurationError, match="No space left on device"):
            await provision(service.arguments, path)
        shown = capsys.readouterr().out.split()
        for ids in (await service.clients()).values():
            assert service.lets_in(ids[0], shown[shown.index(ids[0]) + 2])
    assert path.read_bytes() == EXISTING


async def test_a_newer_name_that_would_hide_what_is_written_is_named(path, tmp_path):
    path.write_text("PROXY_ENTITY_ID=old\n")
    async with identity(tmp_path) as service:
        with pytest.raises(ConfigurationError, match="PROXY_ENTITY_ID and PROXY_CLIENT_ID"):
            await provision(service.arguments, path)
    assert path.read_text() == "PROXY_ENTITY_ID=old\n"


async def test_supermq_that_shows_keys_has_the_last_word(path, tmp_path):
    keys: dict[str, str] = {}

    def shows(request, status, body):
        if request.method == "GET" and request.path.count("/") == 3 and "/clients/" in request.path:
            body["credentials"] = {"secret": keys.setdefault(body["name"], f"of-{body['name']}")}
        return status, body

    async with identity(tmp_path) as service, front(service, shows) as arguments:
        await provision(arguments, path)
        assert not keys
        await provision(arguments, path)
        assert env_file.read(path)["PROPLET_2_CLIENT_KEY"] == "of-proplet-2"
        before = snapshot(path)
        await provision(arguments, path)
        assert snapshot(path) == before


async def test_connections_that_exist_already_are_no_error(path, tmp_path):
    made: set[tuple[str, str]] = set()

    def refuses_twice(request, status, body):
        """As SuperMQ: a request with one connection that exists makes none of them."""
        if not request.path.endswith("/connect"):
            return status, body
        wanted = {(client, kind) for client in body["client_ids"] for kind in body["types"]}
        if wanted & made:
            return 409, {"error": "entity already exists"}
        made.update(wanted)
        return status, body

    async with identity(tmp_path) as service, front(service, refuses_twice) as arguments:
        await provision(arguments, path, "--count", "2")
        await provision(arguments, path, "--count", "3")
        ids = {ids[0] for ids in (await service.clients()).values()}
        assert made == {(each, kind) for each in ids for kind in ("publish", "subscribe")}


async def test_what_is_made_by_somebody_else_in_between_is_used(path, tmp_path):
    seen: set[str] = set()

    def late(request, status, body):
        """The first list of each kind is empty; and a name that exists is a conflict."""
        what = request.path.rpartition("/")[2]
        if what not in {"domains", "clients", "channels"}:
            return status, body
        if request.method == "POST":
            return 409, {"message": "entity already exists"}
        if what in seen:
            return status, body
        seen.add(what)
        return status, {"total": 0, what: None}

    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        values = env_file.read(path)
        async with front(service, late) as arguments:
            await provision(arguments, path)
        assert env_file.read(path) == values


def test_clear_blanks_our_variables_and_keeps_everything_else(path, capsys):
    path.write_bytes(
        EXISTING + b'PROPLET_CLIENT_ID="a"\r\nPROPLET_7_CLIENT_KEY=k # why\n#PROXY_CLIENT_ID=x\nPROXY_DOMAIN_ID=\n'
    )
    provision_smq.run(["clear", "--env-file", str(path)], program="x", env_file=path)
    assert path.read_bytes() == (
        EXISTING + b"PROPLET_CLIENT_ID=\n# why\nPROPLET_7_CLIENT_KEY=\n#PROXY_CLIENT_ID=x\nPROXY_DOMAIN_ID=\n"
    )
    assert "Blanked 2 variables" in capsys.readouterr().out
    before = snapshot(path)
    provision_smq.run(["--env-file", str(path), "clear"], program="x", env_file=path)
    assert "Nothing to clear" in capsys.readouterr().out
    assert snapshot(path) == before


def test_clear_makes_no_file(path, capsys):
    provision_smq.run(["clear"], program="x", env_file=path)
    assert "Nothing to clear" in capsys.readouterr().out
    assert not path.exists()


async def test_after_clear_the_same_clients_come_back_with_new_keys(path, tmp_path):
    async with identity(tmp_path) as service:
        await provision(service.arguments, path)
        before = env_file.read(path)
        provision_smq.run(["clear"], program="x", env_file=path)
        assert not any(value for key, value in env_file.read(path).items() if is_ours(key))
        await provision(service.arguments, path)
        after = env_file.read(path)
        assert {key for key in after if after[key] == before[key]} == {key for key in KEYS if key.endswith("_ID")}
