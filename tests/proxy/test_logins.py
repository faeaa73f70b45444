"""Which login a command shows to which registry."""

from __future__ import annotations

import base64
import json
import os

import pytest

from proxy.auth import Credentials
from proxy.logins import of_command
from swashplate.errors import ConfigurationError


def inline(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def login_at(tmp_path):
    """The user that is shown to a registry, given docker's file and further variables."""

    def ask(registry: str, config: object = None, **environ: str) -> tuple[str, str]:
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        found = of_command(
            registry, username="", password="", token_services="", environ={"DOCKER_CONFIG": str(tmp_path)} | environ
        )
        return found.username, found.password

    return ask


@pytest.mark.parametrize(
    ("stored", "registry", "known"),
    [
        ("ghcr.io", "ghcr.io", True),
        ("https://ghcr.io/v1/", "ghcr.io", True),
        ("ghcr.io", "ghcr.io.evil.test", False),
        ("ghcr.io:444", "ghcr.io", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("localhost:5000", "127.0.0.1:5000", True),
        ("localhost:5000", "127.0.0.1:5001", False),
    ],
)
def test_a_stored_login_is_for_its_own_registry(login_at, stored, registry, known):
    found = login_at(registry, {"auths": {stored: inline("me", "secret")}})
    assert found == (("me", "secret") if known else ("", ""))


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, {"identitytoken": "x"}, inline("me", ""), inline("", "secret")])
def test_a_stored_login_without_a_password_is_none(login_at, entry):
    assert login_at("ghcr.io", {"auths": {"ghcr.io": entry}}) == ("", "")


def test_a_user_and_a_password_may_be_stored_in_the_clear(login_at):
    config = {"auths": {"ghcr.io": {"username": "me", "password": "a:b"}}}
    assert login_at("ghcr.io", config) == ("me", "a:b")


@pytest.mark.parametrize("registry", ["localhost:5000", "127.0.0.1:15400", "local-registry:5000"])
def test_the_embedded_registrys_token_is_shown_on_this_machine_only(login_at, registry):
    token = {"OCI_REGISTRY_HTTP_TOKEN": "t" * 16}
    assert login_at(registry, **token) == ("swashplate", "t" * 16)
    assert login_at("ghcr.io", **token) == ("", "")
    assert login_at(registry, {"auths": {registry: inline("me", "secret")}}, **token) == ("me", "secret")


def test_what_is_given_comes_before_what_is_stored(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"ghcr.io": inline("me", "secret")}}))
    environ = {"DOCKER_CONFIG": str(tmp_path)}
    given = of_command("ghcr.io", username="you", password="p", token_services="auth.test", environ=environ)
    assert given == Credentials("ghcr.io", "you", "p", token_services=frozenset({"https://auth.test"}))


@pytest.mark.parametrize(("username", "password"), [("me", ""), ("", "secret")])
def test_half_a_login_is_refused(username, password):
    with pytest.raises(ConfigurationError, match="without a") as refused:
        of_command("ghcr.io", username=username, password=password, token_services="", environ={})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("said", ["{}", "[]", "not JSON"])
def test_a_helper_that_says_something_else_is_an_error_with_a_hint(login_at, tmp_path, monkeypatch, said):
    helper = tmp_path / "docker-credential-odd"
    helper.write_text(f"#!/bin/sh\necho '{said}'\n")
    helper.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigurationError, match="cannot use the logins"):
        login_at("ghcr.io", {"credsStore": "odd"})


def test_a_helper_that_is_not_installed_is_as_good_as_no_login(login_at):
    assert login_at("ghcr.io", {"credsStore": "not-installed"}) == ("", "")
