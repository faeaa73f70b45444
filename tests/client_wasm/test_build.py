"""The committed guest is what its source builds to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from client_wasm import build
from client_wasm.__main__ import main
from swashplate.errors import ConfigurationError

ROOT = build.HERE.parent


@pytest.fixture
def zig():
    if find_spec("ziglang") is None:
        reason = "ziglang is not installed: pip install 'swashplate[guest]'"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.timeout(600)
def test_the_committed_guest_rebuilds_to_the_same_bytes(zig, capsys):
    assert main(["build", "--check"]) == 0
    assert build.digest_of(build.GUEST) in capsys.readouterr().out


@pytest.mark.timeout(600)
def test_the_bytes_depend_neither_on_the_directory_nor_on_the_environment(zig, tmp_path: Path):
    copy = tmp_path / "some where else"
    shutil.copytree(build.HERE, copy / "client_wasm", ignore=shutil.ignore_patterns("__pycache__", "*.wasm"))
    shutil.copytree(ROOT / "swashplate", copy / "swashplate", ignore=shutil.ignore_patterns("__pycache__"))
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    (decoy / "math.h").write_text("#error found by CPATH\n")
    environment = {**os.environ, "CPATH": str(decoy), "C_INCLUDE_PATH": str(decoy), "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-m", "client_wasm", "build"], cwd=copy, env=environment, check=True)
    assert build.digest_of(copy / "client_wasm" / build.GUEST.name) == build.digest_of(build.GUEST)


@pytest.mark.timeout(600)
def test_check_fails_when_the_guest_is_not_what_its_source_says(zig, tmp_path: Path, monkeypatch, capsys):
    changed = tmp_path / build.GUEST.name
    changed.write_bytes(build.GUEST.read_bytes() + b"\0")
    monkeypatch.setattr(build, "GUEST", changed)
    assert main(["build", "--check"]) == 1
    error = capsys.readouterr().err
    assert build.digest_of(changed) in error
    assert "hint: python -m client_wasm build" in error


@pytest.mark.timeout(600)
def test_a_source_that_does_not_compile_leaves_the_old_guest_alone(zig, tmp_path: Path, monkeypatch, capsys):
    present = tmp_path / "guest.wasm"
    present.write_bytes(b"old")
    monkeypatch.setattr(build, "GUEST", present)
    monkeypatch.setattr(build, "SOURCES", (*build.SOURCES, "no-such-file.c"))
    assert main(["build"]) == 1
    assert "no-such-file.c" in capsys.readouterr().err
    assert present.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [present]


def test_a_missing_compiler_is_named_with_a_hint(monkeypatch, capsys):
    monkeypatch.setattr(build, "zig_version", lambda: None)
    assert main(["build"]) == 1
    error = capsys.readouterr().err
    assert "hint: pip install 'swashplate[guest]'" in error
    assert "Traceback" not in error


def test_another_version_of_the_compiler_is_refused(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(build, "zig_version", lambda: "0.16.0")
    with pytest.raises(ConfigurationError, match=r"0\.16\.0 .* 0\.17\.1"):
        build.build(tmp_path / "guest.wasm")


def test_the_guest_is_small_and_names_no_path():
    content = build.GUEST.read_bytes()
    assert len(content) < 100_000
    for part in (b"/home", b"/tmp", b"/root", b".c\0", b"zig", b"clang"):
        assert part not in content
