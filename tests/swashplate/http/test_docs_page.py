"""The description for people: everything is on it, nothing comes from elsewhere, and its examples work."""

from __future__ import annotations

import html
import json
import re
import subprocess
from html.parser import HTMLParser

import pytest
from aiohttp import web

from swashplate.access import Access
from swashplate.http import (
    OFFSET,
    HttpService,
    JsonObject,
    Route,
    Text,
    answer,
    docs_page,
    limit_of,
    read_body,
    read_upload,
)
from swashplate.messages import ExperimentConfig
from tests.http_fuzz.harness import in_a_thread
from tests.support.ports import free_port

TOKEN = "a-token-0123456789"
CONFIG = {
    "round_id": 'it\'s $HOME `r` "1"',
    "model_ref": "fl/models/m_v0",
    "participants": ["p"],
    "task_wasm_image": "i",
}


async def echo(request: web.Request) -> web.Response:
    return answer(await read_body(request, ExperimentConfig))


async def look(request: web.Request) -> web.Response:
    return answer({"id": request.match_info["id"], "metadata": METADATA.of(request)})


class Nowhere:
    def write(self, content: bytes) -> None: ...


async def upload(request: web.Request) -> web.Response:
    return answer({"size": (await read_upload(request, Nowhere())).size})


METADATA = JsonObject(name="metadata", text="Only <b>these</b>.", example={"a b": "c&d"})
ROUTES = [
    Route(
        "POST",
        "/echo",
        echo,
        "Echo <script>alert(1)</script>",
        description="With `code`.",
        body=ExperimentConfig,
        body_example={**CONFIG, "round_id": "r-1", "hyperparams": {"quote": CONFIG["round_id"]}},
        answer=ExperimentConfig,
    ),
    Route(
        "GET",
        "/things/{id}",
        look,
        "Look",
        parameters=(Text(name="id", text="Which.", place="path", example="thing-1"), OFFSET, limit_of(10), METADATA),
        tag="things",
    ),
    Route(
        "PUT",
        "/things/{id}/upload",
        upload,
        "Upload",
        takes="multipart/form-data",
        body_schema={"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}},
    ),
]


class Outline(HTMLParser):
    """Which elements there are, and whether every one that is opened is closed."""

    VOID = {"meta", "link", "br", "img", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src", "action"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page():
    return docs_page.page(HttpService("test", ROUTES, access=Access(TOKEN, "", "X")).document)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(page):
    outline = Outline()
    outline.feed(re.sub(r"</?p[^>r]*>", "", page))  # of which the end may be left out
    assert outline.open == []
    assert all(link.startswith("#") or link in {"openapi.json", "health", "metrics"} for link in outline.links)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "@import" not in page


def test_what_comes_from_a_description_is_not_markup(page):
    assert "<script>alert" not in page
    assert "<b>these</b>" not in page
    assert "With <code>code</code>." in page


def test_everything_is_on_the_page(page):
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    for expected in ("/echo", "/things/{id}", "/health", "integer ≥ 1, ≤ 10", "participants", "list of string", "413"):
        assert expected in text


def _commands(page: str) -> dict[str, str]:
    """The examples by the id of their operation."""
    found = re.findall(r"<section id='(\w+)'>.*?<button type=button>copy</button><pre>(.*?)</pre>", page, re.DOTALL)
    return {name: html.unescape(command) for name, command in found}


def test_the_examples_can_be_pasted_into_a_shell(page, tmp_path):
    port = free_port()
    (tmp_path / "FILE").write_bytes(b"1234567")
    service = HttpService("test", ROUTES, access=Access(TOKEN, "", "X"))
    answers = {}
    with in_a_thread(service.serving("127.0.0.1", port)):
        environment = {"URL": f"http://127.0.0.1:{port}", "TOKEN": TOKEN, "PATH": "/usr/bin:/bin", "HOME": "/"}
        for name, command in _commands(page).items():
            shell = ["bash", "-c", command.replace("curl ", "curl -sf ", 1)]
            ran = subprocess.run(shell, env=environment, cwd=tmp_path, capture_output=True, check=False)
            assert ran.returncode == 0, (name, command, ran.stderr)
            answers[name] = ran.stdout
    assert json.loads(answers["post_echo"])["hyperparams"] == {"quote": CONFIG["round_id"]}
    assert json.loads(answers["get_things_id"]) == {"id": "thing-1", "metadata": {"a b": "c&d"}}
    assert json.loads(answers["put_things_id_upload"]) == {"size": 7}
    assert {"get_health", "get_metrics", "get_openapi_json", "get_docs"} < set(answers)
