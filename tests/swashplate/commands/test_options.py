"""The options that describe a task."""

import subprocess
import sys

import pytest
import typer

from swashplate.commands import values
from swashplate.commands.options import OPTIONS, fields_of
from swashplate.messages import TaskCreate

CAPABILITIES = {"allow_dir", "allow_env", "allow_http", "clock", "random"}
SHORTHANDS = {"invoke", "monitor_every", *CAPABILITIES}
OF_THE_COMMAND = {"name", "start", "capabilities"}
"""Fields that ``task create`` has of its own: an argument and a flag; and one with an option for each of its parts."""


def test_every_field_of_a_task_has_an_option():
    assert set(OPTIONS) - SHORTHANDS == set(TaskCreate.model_fields) - OF_THE_COMMAND


def test_what_is_typed_becomes_a_task_that_the_manager_takes():
    fields = fields_of(
        {
            "env": ["A=1", "B=x=y"],
            "selector": ["gpu=true"],
            "metadata": ["site=north", "size:=3"],
            "memory_bytes": "64MiB",
            "timeout_s": "1m30s",
            "cli_args": ["-x"],
            "invoke": "add",
            "monitor_every": "2s",
            "limits": ["memory=64MiB", "cpu=2s", "files=10"],
            "allow_dir": ["scans:/data", "inbox:/box:rw"],
            "allow_env": ["SITE"],
            "clock": False,
            "signatures": ["team=AA=="],
            "daemon": None,
            "inputs": [],
        }
    )
    assert fields == {
        "env": {"A": "1", "B": "x=y"},
        "selector": {"gpu": "true"},
        "metadata": {"site": "north", "size": 3},
        "memory_bytes": 64 << 20,
        "timeout_s": 90,
        "cli_args": ["-x", "--invoke", "add"],
        "monitoring_profile": {"interval": 2_000_000_000},
        "limits": {"memory_bytes": 64 << 20, "cpu_s": 2, "output_files": 10},
        "capabilities": {
            "directories": [
                {"name": "scans", "path": "/data", "write": False},
                {"name": "inbox", "path": "/box", "write": True},
            ],
            "env": ["SITE"],
            "clock": False,
        },
        "signatures": {"team": "AA=="},
    }
    assert TaskCreate(name="t", **fields).timeout_s == 90


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda t: values.pairs([t], "--env"), "novalue"),
        (lambda t: values.pairs([t], "--env"), "=x"),
        (lambda t: values.typed_pairs([t], "--metadata"), "k:={"),
        (values.size, "64 parsecs"),
        (values.size, "-1"),
        (values.duration, "soon"),
        (lambda t: values.limits([t]), "memory=lots"),
        (lambda t: values.limits([t]), "patience=3"),
        (lambda t: values.limits([t]), "files=1.5"),
        (values.directory, "scans"),
        (values.directory, "scans:data"),
        (values.directory, "scans:/data:x"),
        (lambda t: values.as_json(t, "--monitoring"), "{"),
    ],
)
def test_what_cannot_be_read_is_a_wrong_usage_that_shows_it(read, text):
    with pytest.raises(typer.BadParameter) as caught:
        read(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("words", [["task", "--help"], ["task", "list", "--help"], ["run", "--help"], ["--help"]])
def test_help_waits_for_neither_http_nor_pydantic(words):
    """Both take longer to import than everything else together."""
    program = (
        "import sys; from swashplate.cli import app\n"
        f"try: app({words!r}, prog_name='swashplate')\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        "print(*(name for name in ('aiohttp', 'pydantic', 'manager.app') if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == ""
    assert "Usage: swashplate" in done.stdout
