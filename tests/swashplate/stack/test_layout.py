"""What each process of a stack is told, and what it is not."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from swashplate.errors import ConfigurationError
from swashplate.stack.environment import read_env, settings_of, unheeded, without_roles
from swashplate.stack.layout import Layout
from swashplate.stack.services import Options, broker_program

OPTIONS = Options(Path("/state"), Path("/env"), proplets=2)
FILE = {
    "MANAGER_CLIENT_ID": "m",
    "MANAGER_CLIENT_KEY": "manager secret",
    "PROPLET_CLIENT_ID": "p1",
    "PROPLET_CLIENT_KEY": "p1 secret",
    "PROPLET_2_CLIENT_ID": "p2",
    "PROPLET_2_CLIENT_KEY": "p2 secret",
    "COORDINATOR_CLIENT_ID": "c",
    "COORDINATOR_CLIENT_KEY": "coordinator secret",
    "PROXY_CLIENT_ID": "x",
    "PROXY_CLIENT_KEY": "proxy secret",
    "PROXY_REGISTRY_PASSWORD": "registry secret",
    "MANAGER_DOMAIN_ID": "d",
    "MANAGER_CHANNEL_ID": "ch",
    "PROPLET_DOMAIN_ID": "d",
    "PROPLET_CHANNEL_ID": "ch",
}
SECRETS = {value for value in FILE.values() if value.endswith("secret")}
OWN = {
    "manager": {"manager secret"},
    "coordinator": {"coordinator secret"},
    "proxy": {"proxy secret", "registry secret"},
    "proplet-1": {"p1 secret"},
    "proplet-2": {"p2 secret"},
}


def children(environ=None, options=OPTIONS, file=FILE):
    return {child.name: child for child in Layout(options, file, environ or {}).children()}


def test_each_process_gets_its_own_keys_and_nobody_elses():
    for name, child in children(dict(FILE)).items():
        assert SECRETS & set(child.env.values()) == OWN.get(name, set()), name


def test_ids_that_a_shell_exports_to_name_participants_do_not_replace_those_of_the_env_file():
    found = children({"PROPLET_CLIENT_ID": "of another stack", "PROPLET_2_CLIENT_ID": "too"})
    assert [found[name].env["PROPLET_CLIENT_ID"] for name in ("proplet-1", "proplet-2")] == ["p1", "p2"]
    assert "of another stack" not in str([child.env for child in found.values()])


def test_a_newer_name_in_the_env_file_does_not_make_all_proplets_one():
    found = children(file={**FILE, "PROPLET_ENTITY_ID": "p1", "PROPLET_API_KEY": "p1 secret"})
    assert "PROPLET_ENTITY_ID" not in found["proplet-2"].env


def test_any_setting_of_a_role_reaches_it_from_the_environment_or_the_env_file():
    found = children({"PROXY_CACHE_BYTES": "7", "PATH": "/bin"}, file={**FILE, "PROXY_CHUNK_SIZE": "5"})
    assert (found["proxy"].env["PROXY_CACHE_BYTES"], found["proxy"].env["PROXY_CHUNK_SIZE"]) == ("7", "5")
    assert "PROXY_CACHE_BYTES" not in found["manager"].env
    assert all(child.env["PATH"] == "/bin" for child in found.values())


SERVICES = ["MANAGER", "COORDINATOR", "MODEL_REGISTRY", "AGGREGATOR", "DATA_STORE", "PROPLET", "PROXY", "OCI_REGISTRY"]
FULL = {f"{service}_HTTP_TOKEN": f"{service}-full" for service in SERVICES}
READ = {f"{service}_HTTP_READ_TOKEN": f"{service}-read" for service in SERVICES}
NEEDS = {
    "manager": {"COORDINATOR-full"},
    "coordinator": {"MANAGER-full", "MODEL_REGISTRY-full", "AGGREGATOR-full"},
    "proxy": {"MANAGER-read", "OCI_REGISTRY-read"},
    "proplet-1": {"MODEL_REGISTRY-read", "DATA_STORE-read"},
    "proplet-2": {"MODEL_REGISTRY-read", "DATA_STORE-read"},
}


@pytest.mark.parametrize("exported", [True, False])
def test_each_process_gets_its_own_tokens_and_the_least_of_those_that_it_calls(exported):
    tokens = {**FULL, **READ}
    found = children(tokens) if exported else children(file={**FILE, **tokens})
    assert found.keys() >= {*NEEDS, "model-registry", "aggregator", "data-store", "oci-registry"}
    for name, child in found.items():
        service = "PROPLET" if name.startswith("proplet") else name.upper().replace("-", "_")
        held = set(tokens.values()) & set(child.env.values())
        own = {f"{service}-full", f"{service}-read"} if service in SERVICES else set()
        assert held == NEEDS.get(name, set()) | own, name
        assert not [part for part in child.command if part in tokens.values()]


def test_without_a_token_for_reading_callers_get_the_other_one():
    found = children(file={**FILE, **FULL})
    assert found["proplet-1"].env["DATA_STORE_HTTP_TOKEN"] == "DATA_STORE-full"


def test_a_demonstration_gets_no_tokens():
    assert without_roles({**FULL, **READ, "HOME": "/root"}) == {"HOME": "/root"}


def test_a_database_and_its_password_reach_its_service_alone():
    roles = {"MANAGER": "manager", "COORDINATOR": "coordinator", "MODEL_REGISTRY": "model-registry"}
    urls = {f"{role}_DATABASE_URL": f"postgresql://{role}@host/d" for role in roles}
    for found in (children(file={**FILE, **urls}), children(environ=urls)):
        for role, service in roles.items():
            name = f"{role}_DATABASE_URL"
            assert [child for child, made in found.items() if name in made.env] == [service]
            assert found[service].env[name] == urls[name]
    assert without_roles(urls) == {}


def test_the_existing_names_of_the_managers_storage_reach_it_alone():
    given = {"MANAGER_STORAGE_TYPE": "postgres", "MANAGER_POSTGRES_PASS": "x"}
    found = children(file={**FILE, **given})
    assert [name for name, child in found.items() if given.items() <= child.env.items()] == ["manager"]


def test_the_coordinators_broker_settings_carry_no_role_and_reach_it_alone():
    found = children(file={**FILE, "MQTT_QOS": "2", "MQTT_TLS_CA_CERT": "/ca"})
    assert [name for name, child in found.items() if "MQTT_TLS_CA_CERT" in child.env] == ["coordinator"]
    assert found["coordinator"].env["MQTT_QOS"] == "2"


@pytest.mark.parametrize("name", ["MANAGER_MQTT_ADDRESS", "PROPLET_MQTT_ADDRESS", "PROXY_MQTT_ADDRESS", "MQTT_BROKER"])
def test_with_an_address_of_a_broker_neither_a_broker_nor_its_identity_service_is_started(name):
    own, foreign = Layout(OPTIONS, FILE, {}), Layout(OPTIONS, FILE, {name: "tcp://elsewhere:1883"})
    assert own.own_broker
    assert not foreign.own_broker
    ours = {child.name for child in own.children()}
    assert ours - {child.name for child in foreign.children()} == {"broker", "identity"}
    assert set(own.urls) - set(foreign.urls) == {"identity"}
    assert set(own.ports) - set(foreign.ports) == {1883, 9002, 9003, 9005, 9006}


def test_the_identity_service_is_told_which_broker_it_has(monkeypatch):
    monkeypatch.setattr("swashplate.stack.layout.broker_program", lambda kind: f"/bin/{kind}")
    for broker, config in (("embedded", "nats.conf"), ("mosquitto", "mosquitto.conf")):
        found = children({"IDENTITY_ADMIN_PASSWORD": "x"}, Options(Path("/state"), Path("/env"), 2, broker=broker))
        assert found["broker"].command == [f"/bin/{broker}", "-c", f"/state/broker/{config}"]
        told = found["identity"].env
        assert (told["IDENTITY_BROKER"], told["IDENTITY_BROKER_DIR"]) == (broker, "/state/broker")
        assert told["IDENTITY_ADMIN_PASSWORD"] == "x"
        assert not any("IDENTITY_ADMIN_PASSWORD" in child.env for name, child in found.items() if name != "identity")


@pytest.mark.parametrize(("kind", "named"), [("rabbit", "rabbit"), ("mosquitto", "mosquitto"), ("embedded", "nats")])
def test_a_broker_that_cannot_be_run_is_named(kind, named, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ConfigurationError, match=named) as refused:
        broker_program(kind)
    assert refused.value.hint


def test_every_port_moves_with_the_offset():
    found = children(options=Options(Path("/state"), Path("/env"), 2, port_offset=100))
    assert found["manager"].env["MANAGER_HTTP_PORT"] == "7170"
    assert found["coordinator"].env["MODEL_REGISTRY_URL"] == "http://127.0.0.1:8184"
    assert found["proplet-1"].env["PROPLET_METRICS_PORT"] == "9192"
    assert "local-registry:5000=http://127.0.0.1:5100" in found["proxy"].env["PROXY_REGISTRY_ALIASES"]


def test_what_is_meant_for_a_role_does_not_reach_a_demonstration():
    assert without_roles({"PROPLET_CLIENT_ID": "p", "MQTT_BROKER": "b", "HOME": "/root"}) == {"HOME": "/root"}


def test_an_env_file_is_read_as_a_shell_reader_would(tmp_path):
    file = tmp_path / ".env"
    file.write_text('A=1\n# B=2\nexport C="3 # 4"  # five\nA=\nD=6 # seven\nE=\nbroken\n')
    assert read_env(file) == {"A": "1", "C": "3 # 4", "D": "6"}
    assert read_env(tmp_path / "none") == {}


def test_what_cannot_be_an_env_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "file" / "env"):
        with pytest.raises(ConfigurationError, match=str(path)):
            read_env(path)


def test_a_setting_with_a_proplets_number_is_that_proplets_alone():
    file = {**FILE, "PROPLET_LABELS": "site=north", "PROPLET_2_LABELS": "gpu=true", "PROPLET_1_SLOTS": "4"}
    found = children({}, file=file)
    assert found["proplet-1"].env["PROPLET_LABELS"] == "site=north"
    assert found["proplet-2"].env["PROPLET_LABELS"] == "gpu=true"
    assert found["proplet-1"].env["PROPLET_SLOTS"] == "4"
    assert "PROPLET_SLOTS" not in found["proplet-2"].env
    assert found["proplet-2"].env["PROPLET_NAME"] == "proplet-2"
    assert not [name for name in found["proplet-2"].env if name.startswith("PROPLET_2")]


def test_a_policy_is_every_proplets_or_its_own_and_an_option_stands_above_both():
    file = {**FILE, "PROPLET_POLICY": "/every.toml", "PROPLET_2_POLICY": "/second.toml"}
    chosen = replace(OPTIONS, policy=Path("/chosen.toml"))
    for options, given, first, second in (
        (OPTIONS, FILE, "", ""),
        (OPTIONS, {**FILE, "PROPLET_POLICY": "near.toml"}, *[str(Path.cwd() / "near.toml")] * 2),
        (OPTIONS, file, "/every.toml", "/second.toml"),
        (chosen, file, "/chosen.toml", "/chosen.toml"),
    ):
        found = children(options=options, file=given)
        assert Layout(options, given, {}).policies == {"proplet-1": first, "proplet-2": second}
        assert found["proplet-1"].env.get("PROPLET_POLICY", "") == first
        assert found["proplet-2"].env.get("PROPLET_POLICY", "") == second


def test_what_a_shell_says_to_no_effect_is_known():
    shell = {
        "PROPLET_SLOTS": "3",
        "PROPLET_2_LABELS": "site=b",
        "PROPLET_STATE_DIR": "/elsewhere",
        "PROPLET_CLIENT_ID": "of another stack",
        "PROPLET_2_CLIENT_ID": "p2",
        "MANAGER_HTTP_TOKEN": "secret",
    }
    given = [child.env for child in children(shell).values()]
    assert settings_of({**shell, "PATH": "/bin", "PROXY_CHUNK_SIZE": ""}) == shell
    assert unheeded(shell, given) == ["PROPLET_CLIENT_ID", "PROPLET_STATE_DIR"]
    assert unheeded({"PROPLET_SLOTS": "4"}, given) == ["PROPLET_SLOTS"]


def test_how_much_is_logged_may_stand_in_the_env_file_for_every_service():
    found = children(file={**FILE, "DATA_STORE_LOG_LEVEL": "debug", "MANAGER_LOG_LEVEL": "warn"})
    assert found["data-store"].env["DATA_STORE_LOG_LEVEL"] == "debug"
    assert [name for name, child in found.items() if "MANAGER_LOG_LEVEL" in child.env] == ["manager"]
