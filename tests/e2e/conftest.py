from __future__ import annotations

import pytest

from client_wasm.demo import GUEST
from tests.support.shell import Shell
from tests.support.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory, nats_server):
    """One stack for all tests that leave it as they found it; each uses rounds and model lines of its own."""
    with Stack(tmp_path_factory.mktemp("stack"), env="PROPLET_COMPILE_CPU=10\n") as running:
        running.push(GUEST)
        yield running


@pytest.fixture
def line(stack, request):
    """A fresh model line with the guide's zero model as version 0."""
    name = "line" + "".join(c if c.isalnum() else "_" for c in request.node.name)[:100]
    status, body = stack.post(
        "model-registry", f"/lines/{name}/models", {"version": 0, "model": {"w": [0, 0, 0], "b": 0}}
    )
    assert status == 201, body
    return name


@pytest.fixture
def shell(stack, tmp_path, monkeypatch, capsys):
    return Shell(stack, tmp_path, monkeypatch, capsys)
