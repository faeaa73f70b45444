"""Both dialects of the environment, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.settings import CoordinatorSettings, RegistrySettings
from swashplate.errors import ConfigurationError

SEED = {"MANAGER_DOMAIN_ID": "d", "MANAGER_CHANNEL_ID": "c", "MQTT_CLIENT_ID": "fl", "MQTT_PASSWORD": "key"}
CURRENT = {"MANAGER_TENANT_ID": "d", "MANAGER_CHANNEL_ID": "c", "MQTT_ENTITY_ID": "fl", "COORDINATOR_API_KEY": "key"}


@pytest.mark.parametrize("environ", [SEED, CURRENT])
def test_both_dialects_name_the_same_identity(environ, tmp_path: Path):
    settings = CoordinatorSettings.load(environ, config=tmp_path / "none.toml")
    identity = (settings.domain_id, settings.channel_id, settings.client_id, settings.client_key)
    assert identity == ("d", "c", "fl", "key")


def test_an_identity_can_come_from_the_configuration_file(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('[coordinator]\ndomain_id="d"\nchannel_id="c"\nclient_id="fl"\nclient_key="key"\n')
    assert CoordinatorSettings.load({}, config=config).client_id == "fl"


def test_a_missing_identity_is_said(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        CoordinatorSettings.load({}, config=tmp_path / "config.toml")


def test_further_ports_are_a_list():
    settings = CoordinatorSettings.load({**SEED, "COORDINATOR_EXTRA_PORTS": "8080, 8090"})
    assert settings.extra_ports == (8080, 8090)
    assert CoordinatorSettings.load(SEED).extra_ports == ()


@pytest.mark.parametrize("ports", ["x", "0", "70000"])
def test_a_wrong_port_is_named(ports):
    with pytest.raises(ConfigurationError, match="COORDINATOR_EXTRA_PORTS"):
        CoordinatorSettings.load({**SEED, "COORDINATOR_EXTRA_PORTS": ports})
    with pytest.raises(ConfigurationError, match="REGISTRY_PORT"):
        RegistrySettings.load({"REGISTRY_PORT": ports})
