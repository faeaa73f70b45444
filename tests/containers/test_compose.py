"""compose.yaml and its overlays, as Docker Compose itself reads them. No engine is needed for that."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from coordinator.settings import AggregatorSettings, CoordinatorSettings
from coordinator.settings import RegistrySettings as ModelRegistrySettings
from manager.settings import ManagerSettings
from proplet.settings import DataStoreSettings, PropletSettings
from provision.credentials import complete
from provision.identity.settings import IdentitySettings
from proxy.settings import ProxySettings
from proxy.settings import RegistrySettings as ImageRegistrySettings
from swashplate.settings import Settings
from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[2]
BASE, SUPERMQ, HOSTS = "compose.yaml", "containers/compose.supermq.yaml", "containers/compose.hosts.yaml"
OVERLAYS = (SUPERMQ, HOSTS)
TOKENS = (
    "MANAGER_HTTP_TOKEN",
    "MANAGER_HTTP_READ_TOKEN",
    "COORDINATOR_HTTP_TOKEN",
    "MODEL_REGISTRY_HTTP_TOKEN",
    "MODEL_REGISTRY_HTTP_READ_TOKEN",
)
PROPLETS = ("proplet", "proplet-2", "proplet-3")
GUIDE_NAMES = {
    *PROPLETS,
    "manager",
    "proxy",
    "coordinator-http",
    "model-registry",
    "aggregator",
    "local-data-store",
    "local-registry",
    "mqtt-adapter",
    "identity",
}
SETTINGS: dict[str, type[Settings]] = {
    "manager": ManagerSettings,
    **dict.fromkeys(PROPLETS, PropletSettings),
    "proxy": ProxySettings,
    "coordinator-http": CoordinatorSettings,
    "model-registry": ModelRegistrySettings,
    "aggregator": AggregatorSettings,
    "local-data-store": DataStoreSettings,
    "local-registry": ImageRegistrySettings,
    "identity": IdentitySettings,
}
BEYOND_LOOPBACK = {"manager": 7070, "coordinator-http": 8086, "model-registry": 8084, "mqtt-adapter": 1883}


@pytest.fixture(scope="session")
def docker_compose() -> Path:
    """The Compose that the test extra installs; it is never asked for anything that needs an engine."""
    found = Path(sysconfig.get_path("purelib"), "compose", "docker-compose")
    if not found.exists():
        missing("Docker Compose is not installed; install the extra `test`")
    return found


@pytest.fixture
def asked(docker_compose, tmp_path):
    """Runs `docker compose config` on some of our files; ``env`` is what stands in .env, nothing comes from elsewhere."""

    def ask(*files: str, env: str = "") -> subprocess.CompletedProcess[str]:
        env_file = tmp_path / ".env"
        env_file.write_text(env)
        command = [
            docker_compose,
            "--env-file",
            env_file,
            *(part for file in files or (BASE,) for part in ("-f", file)),
        ]
        return subprocess.run(
            [*command, "config", "--format", "json"],
            cwd=ROOT,
            env={"PATH": os.defpath, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return ask


@pytest.fixture
def config(asked):
    def read(*files: str, env: str = "") -> dict:
        answer = asked(*files, env=env)
        assert answer.returncode == 0, answer.stderr
        assert not answer.stderr, answer.stderr  # a variable without a value and without a default is a warning
        return json.loads(answer.stdout)

    return read


def tokens() -> str:
    return "".join(f"{name}=secret-{name}\n" for name in TOKENS)


def everything_set() -> tuple[str, dict[str, str]]:
    """A .env in which every variable of the files has a value of its own, and those values."""
    values = {name: f"value-of-{name}" for name in interpolated(BASE)}
    values |= {"SMQ_NGINX_MQTT_PORT": "1999", "COORDINATOR_SECOND_PORT": "8999"}
    return "".join(f"{name}={value}\n" for name, value in values.items()), values


def interpolated(*files: str) -> set[str]:
    return {name for file in files for name in re.findall(r"\$\{([A-Z][A-Z0-9_]*)", (ROOT / file).read_text())}


def example_keys() -> set[str]:
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def published(services: dict) -> set[tuple[str, str, int, int]]:
    return {
        (name, port["host_ip"], int(port["published"]), port["target"])
        for name, service in services.items()
        for port in service.get("ports", ())
    }


def test_services_have_the_names_of_the_guide(config):
    assert set(config()["services"]) == GUIDE_NAMES


def test_nothing_has_to_be_set_to_start(asked):
    assert asked(env="").returncode == 0
    assert asked(env=(ROOT / ".env.example").read_text()).returncode == 0


def test_the_example_means_the_same_as_no_file_at_all(config):
    assert config(env=(ROOT / ".env.example").read_text()) == config()


def test_no_dependency_waits_for_health(config):
    conditions = {
        condition["condition"]
        for service in config()["services"].values()
        for condition in service.get("depends_on", {}).values()
    }
    assert conditions == {"service_started"}


def test_ports_are_those_of_the_guide_and_on_loopback_alone(config):
    ports = published(config()["services"])
    assert {(name, there, inside) for name, _, there, inside in ports} == {
        ("manager", 7070, 7070),
        ("coordinator-http", 8086, 8080),
        ("coordinator-http", 8080, 8080),
        ("model-registry", 8084, 8081),
        ("aggregator", 8085, 8082),
        ("local-data-store", 8083, 8083),
        ("proxy", 9191, 9191),
        ("local-registry", 5000, 5000),
        ("mqtt-adapter", 1883, 1883),
        ("identity", 9002, 9002),
        ("identity", 9003, 9003),
        ("identity", 9005, 9005),
        ("identity", 9006, 9006),
    }
    assert {host for _, host, _, _ in ports} == {"127.0.0.1"}


def test_the_mqtt_port_and_the_second_port_of_the_coordinator_can_be_moved(config):
    ports = published(config(env="SMQ_NGINX_MQTT_PORT=1999\nCOORDINATOR_SECOND_PORT=8999\n")["services"])
    assert ("mqtt-adapter", "127.0.0.1", 1999, 1883) in ports
    assert {there for name, _, there, _ in ports if name == "coordinator-http"} == {8086, 8999}


def test_each_service_is_handed_its_own_keys_and_nobody_elses(config):
    text, values = everything_set()
    owners = {
        "MANAGER_CLIENT_KEY": {"manager"},
        "COORDINATOR_CLIENT_KEY": {"coordinator-http"},
        "PROXY_CLIENT_KEY": {"proxy"},
        "PROXY_REGISTRY_PASSWORD": {"proxy"},
        "PROXY_REGISTRY_TOKEN": {"proxy"},
        "PROPLET_CLIENT_KEY": {"proplet"},
        "PROPLET_2_CLIENT_KEY": {"proplet-2"},
        "PROPLET_3_CLIENT_KEY": {"proplet-3"},
        "IDENTITY_ADMIN_PASSWORD": {"identity"},
    }
    services = config(env=text)["services"]
    holders = {
        secret: {
            name for name, service in services.items() if values[secret] in service.get("environment", {}).values()
        }
        for secret in owners
    }
    assert holders == owners


def test_every_proplet_gets_its_id_under_the_name_it_reads(config):
    text, values = everything_set()
    services = config(env=text)["services"]
    for service, prefix in zip(PROPLETS, ("PROPLET", "PROPLET_2", "PROPLET_3"), strict=True):
        environment = services[service]["environment"]
        assert environment["PROPLET_CLIENT_ID"] == values[f"{prefix}_CLIENT_ID"]
        assert environment["PROPLET_CLIENT_KEY"] == values[f"{prefix}_CLIENT_KEY"]


def test_the_data_store_is_made_anew_with_the_proplets_when_their_ids_change(config):
    """Compose makes a dependency of what it is asked for anew when its environment changed: step 5 does not name it."""
    text, values = everything_set()
    services = config(env=text)["services"]
    ids = {values[name] for name in ("PROPLET_CLIENT_ID", "PROPLET_2_CLIENT_ID", "PROPLET_3_CLIENT_ID")}
    assert ids <= set(services["local-data-store"]["environment"].values())
    assert all("local-data-store" in services[proplet]["depends_on"] for proplet in PROPLETS)


def test_every_container_is_checked_restarted_and_confined(config):
    for name, service in config()["services"].items():
        assert service["healthcheck"]["test"][:2] == ["CMD", "healthy"], name
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_every_health_check_asks_a_port_that_the_service_listens_on(config):
    for name, service in config()["services"].items():
        port = int(re.search(r":(\d+)", service["healthcheck"]["test"][2])[1])
        inside = {published["target"] for published in service.get("ports", ())}
        assert port in (inside or {9092}), name


def test_no_other_container_reaches_identity(config):
    services = config()["services"]
    networks = {name: set(service["networks"]) for name, service in services.items()}
    assert not any(networks["identity"] & joined for name, joined in networks.items() if name != "identity")


def test_every_target_is_in_the_dockerfile(config):
    stages = set(re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert {service["build"]["target"] for service in config()["services"].values()} <= stages


def test_the_base_image_is_an_argument_of_every_build(config):
    services = config(env="BASE_IMAGE=mine:1\n")["services"]
    assert {service["build"]["args"]["BASE_IMAGE"] for service in services.values()} == {"mine:1"}


def test_the_example_lists_every_variable_that_the_files_read():
    assert interpolated(BASE, *OVERLAYS) <= example_keys()


def test_the_example_lists_every_key_that_provisioning_writes():
    assert set(complete({}, 3).as_env()) <= example_keys()


def test_the_supermq_overlay_has_no_broker_of_its_own(config):
    found = config(BASE, SUPERMQ)
    assert set(found["services"]) == GUIDE_NAMES - {"mqtt-adapter", "identity"}
    network = found["networks"]["supermq"]
    assert (network["name"], network["external"]) == ("supermq-base-net", True)
    joined = {name for name, service in found["services"].items() if "supermq" in service["networks"]}
    assert joined == {"manager", "coordinator-http", "proxy", *PROPLETS}
    assert all("default" in service["networks"] for service in found["services"].values())


def test_the_supermq_overlay_takes_the_name_of_the_network_and_leaves_port_8080_to_supermq(config):
    found = config(BASE, SUPERMQ, env="SMQ_NETWORK=other\n")
    assert found["networks"]["supermq"]["name"] == "other"
    ports = published(found["services"])
    assert not {port for port in ports if port[2] in {1883, 8080, 9002, 9003, 9005, 9006}}
    assert {host for _, host, _, _ in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("missing", TOKENS)
def test_the_overlay_for_other_hosts_refuses_a_missing_token_by_name(asked, missing):
    kept = "".join(line for line in tokens().splitlines(keepends=True) if not line.startswith(f"{missing}="))
    for env in (kept, f"{kept}{missing}=\n"):
        answer = asked(BASE, HOSTS, env=env)
        assert answer.returncode != 0
        assert missing in answer.stderr


def test_the_overlay_for_other_hosts_publishes_only_what_asks_for_a_token_or_a_key(config):
    services = config(BASE, HOSTS, env=tokens())["services"]
    open_to_all = {(name, there) for name, host, there, _ in published(services) if host != "127.0.0.1"}
    assert open_to_all == set(BEYOND_LOOPBACK.items())
    for name in ("manager", "coordinator-http", "model-registry"):
        environment = services[name]["environment"]
        token = f"{name.removesuffix('-http').replace('-', '_').upper()}_HTTP_TOKEN"
        assert environment[token] == f"secret-{token}", name
        assert [value for key, value in environment.items() if key.endswith("_HTTP_INSECURE")] == ["false"], name


def test_the_overlay_for_other_hosts_publishes_where_it_is_told(config):
    services = config(BASE, HOSTS, env=tokens() + "PUBLISH_ADDRESS=10.1.2.3\n")["services"]
    assert {host for _, host, _, _ in published(services)} == {"127.0.0.1", "10.1.2.3"}


def test_who_calls_a_service_has_the_least_of_its_tokens(config):
    services = config(BASE, HOSTS, env=tokens())["services"]
    holders = {
        token: {name for name, service in services.items() if token in service.get("environment", {})}
        for token in TOKENS
    }
    assert holders == {
        "MANAGER_HTTP_TOKEN": {"manager", "coordinator-http"},
        "MANAGER_HTTP_READ_TOKEN": {"manager", "proxy"},
        "COORDINATOR_HTTP_TOKEN": {"coordinator-http", "manager"},
        "MODEL_REGISTRY_HTTP_TOKEN": {"model-registry", "coordinator-http"},
        "MODEL_REGISTRY_HTTP_READ_TOKEN": {"model-registry", *PROPLETS},
    }


@pytest.mark.parametrize("service", sorted(SETTINGS))
def test_a_service_is_handed_only_what_it_reads(config, service):
    kind = SETTINGS[service]
    read = {name for field in kind.model_fields for name in kind.names(field)}
    for files, env in (((BASE,), ""), ((BASE, HOSTS), tokens()), ((BASE, SUPERMQ), "")):
        given = config(*files, env=env)["services"].get(service, {})
        assert set(given.get("environment", {})) <= read


@pytest.mark.parametrize(
    ("env", "source"),
    [("", "/dev/null"), ("PROPLET_POLICY=\n", "/dev/null"), ("PROPLET_POLICY=./own.toml\n", str(ROOT / "own.toml"))],
)
def test_the_proplets_have_the_policy_of_this_machine_or_an_empty_one(config, env, source):
    services = config(env=env)["services"]
    for name in PROPLETS:
        target = services[name]["environment"]["PROPLET_POLICY"]
        [policy] = [volume for volume in services[name]["volumes"] if volume["target"] == target]
        assert (policy["type"], policy["source"], policy["read_only"]) == ("bind", source, True)
