from pathlib import Path
from typing import ClassVar

import pytest

from swashplate.errors import ConfigurationError
from swashplate.settings import MQTT_IDENTITY, Seconds, Settings, refuse_open_bind, setting


class Example(Settings):
    section: ClassVar[str] = "manager"
    identity: ClassVar[tuple[tuple[str, str, str], ...]] = MQTT_IDENTITY

    domain_id: str = setting("", "X_TENANT_ID", "X_DOMAIN_ID", help="d")
    channel_id: str = setting("", "X_CHANNEL_ID", help="c")
    client_id: str = setting("", "X_ENTITY_ID", "X_CLIENT_ID", help="i")
    client_key: str = setting("", "X_API_KEY", "X_CLIENT_KEY", help="k")
    port: int = setting(7070, "X_PORT", help="p")
    wait: Seconds = setting(30.0, "X_WAIT", help="w")


SEED = {"X_DOMAIN_ID": "d", "X_CHANNEL_ID": "c", "X_CLIENT_ID": "i", "X_CLIENT_KEY": "k"}


def test_both_dialects_name_the_same_settings():
    new = {"X_TENANT_ID": "d", "X_CHANNEL_ID": "c", "X_ENTITY_ID": "i", "X_API_KEY": "k"}
    assert Example.load(SEED) == Example.load(new)


def test_the_new_name_wins_and_empty_counts_as_not_set():
    assert Example.load({**SEED, "X_TENANT_ID": "new"}).domain_id == "new"
    assert Example.load({**SEED, "X_TENANT_ID": " "}).domain_id == "d"


def test_without_environment_and_file_the_error_is_the_one_of_the_guide(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        Example.load({})
    assert caught.value.sentence == "failed to load TOML configuration: stat config.toml: no such file or directory"
    assert "X_DOMAIN_ID" in str(caught.value.hint)


@pytest.mark.parametrize("keys", [("domain_id", "client_id", "client_key"), ("tenant_id", "entity_id", "api_key")])
def test_the_file_fills_what_the_environment_lacks(tmp_path: Path, keys):
    file = tmp_path / "config.toml"
    file.write_text(f'[manager]\n{keys[0]} = "D"\n{keys[1]} = "I"\n{keys[2]} = "K"\nchannel_id = "C"\n')
    loaded = Example.load({"X_CHANNEL_ID": "mine"}, config=file)
    assert (loaded.domain_id, loaded.channel_id, loaded.client_id, loaded.client_key) == ("D", "mine", "I", "K")


def test_a_file_that_lacks_a_key_is_named(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text('[manager]\ndomain_id = "D"\n')
    with pytest.raises(ConfigurationError, match=r"lacks channel_id in section \[manager\]"):
        Example.load({}, config=file)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("30", 30), ("500ms", 0.5), ("2m", 120), ("1.5", 1.5)])
def test_durations_are_go_style_or_plain_seconds(text, seconds):
    assert Example.load({**SEED, "X_WAIT": text}).wait == seconds


@pytest.mark.parametrize(("name", "value"), [("X_WAIT", "soon"), ("X_PORT", "http")])
def test_a_wrong_value_names_the_setting(name, value):
    with pytest.raises(ConfigurationError, match=f"setting {name}.*{value}"):
        Example.load({**SEED, name: value})


def test_http_beyond_loopback_needs_a_word():
    refuse_open_bind("127.0.0.1", False, "X")
    refuse_open_bind("0.0.0.0", True, "X")
    with pytest.raises(ConfigurationError, match="without authentication"):
        refuse_open_bind("0.0.0.0", False, "X")
