"""The identity service of a running stack: it knows the env file's credentials, and who is revoked there is out."""

from __future__ import annotations

import pytest

from swashplate.stack.environment import read_env
from swashplate.stack.services import IDENTITY_PORTS
from tests.support.stack import poll


class Admin:
    def __init__(self, stack) -> None:
        self.stack = stack
        login = {"username": "admin", "password": "12345678"}
        status, answer = stack.call("POST", self.url("users", "/users/tokens/issue"), login)
        assert status == 201, answer
        self.token = answer["access_token"]

    def url(self, service: str, path: str) -> str:
        return f"http://localhost:{IDENTITY_PORTS[f'IDENTITY_{service.upper()}_PORT'] + self.stack.offset}{path}"

    def call(self, service: str, method: str, path: str, body=None):
        status, answer = self.stack.call(method, self.url(service, path), body, token=self.token)
        assert status < 300, answer
        return answer


@pytest.fixture
def admin(stack):
    return Admin(stack)


def test_the_env_files_ids_are_found_under_the_guides_names(stack, admin):
    env = read_env(stack.env_file)
    domain = next(each for each in admin.call("domains", "GET", "/domains")["domains"] if each["route"] == "fl-demo")
    assert domain["id"] == env["MANAGER_DOMAIN_ID"]
    channels = admin.call("channels", "GET", f"/{domain['id']}/channels")["channels"]
    assert [(each["name"], each["id"]) for each in channels] == [("fl", env["MANAGER_CHANNEL_ID"])]
    clients = admin.call("clients", "GET", f"/{domain['id']}/clients")["clients"]
    assert {each["name"]: each["id"] for each in clients} == {
        "manager": env["MANAGER_CLIENT_ID"],
        **dict(zip(("proplet-1", "proplet-2", "proplet-3"), stack.proplets, strict=True)),
        "fl-coordinator": env["COORDINATOR_CLIENT_ID"],
        "proxy": env["PROXY_CLIENT_ID"],
    }


def test_a_disabled_proplet_is_gone_until_it_is_enabled_again(stack, admin):
    env = read_env(stack.env_file)
    path = f"/{env['MANAGER_DOMAIN_ID']}/clients/{env['PROPLET_3_CLIENT_ID']}"

    def alive() -> bool:
        found = stack.get("manager", "/proplets?status=active&limit=100")["proplets"]
        return env["PROPLET_3_CLIENT_ID"] in {each["id"] for each in found}

    assert alive()
    admin.call("clients", "POST", f"{path}/disable")
    try:
        poll(lambda: not alive(), within=20)
    finally:
        admin.call("clients", "POST", f"{path}/enable")
    poll(alive, within=20)
