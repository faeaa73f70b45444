"""Compiled modules on disk: only what this proplet made is run, and no more is kept than is allowed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wasmtime

from proplet.sandbox.module_cache import KEPT_LOADED, TOUCH_EVERY_S, ModuleCache, NotCompiled
from proplet.sandbox.module_folder import Contents, ModuleFolder, UnsafeFolderError
from tests.support.compiling import DEFAULT, Compiling, called

KEY = DEFAULT.key
CONTENTS = Contents(component=False, exports={})


def returns(number: int) -> str:
    return f'(module (func (export "f") (result i32) (i32.const {number})))'


@pytest.fixture
def compiling(tmp_path) -> Compiling:
    return Compiling(tmp_path)


@pytest.fixture
def digest(compiling) -> str:
    """Of the module that returns 1, which is in the folder."""
    return compiling.compiled(returns(1))


@pytest.fixture
def stored(compiling, digest):
    [path] = compiling.modules.iterdir()
    return path


def loads(compiling: Compiling, digest: str) -> bool:
    """In a process that has not loaded it before; what is loaded does what it should."""
    try:
        loaded = ModuleCache(compiling.modules).load(digest, DEFAULT)
    except NotCompiled:
        return False
    assert called(loaded, "f") == 1
    return True


def refused_and_made_again(compiling: Compiling, digest: str) -> None:
    assert not loads(compiling, digest)
    assert compiling.compile(returns(1)).compiled
    assert loads(compiling, digest)
    assert len(list(compiling.modules.iterdir())) == 1


def test_a_stored_module_is_found_by_another_process(compiling, digest, stored):
    assert loads(compiling, digest)
    assert stored.stat().st_mode & 0o777 == 0o600
    assert compiling.modules.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", [0, 0.001, 0.3, 0.5, 0.9, 0.995, -1, -20, -33, -36, -40])
def test_a_flipped_bit_is_noticed(compiling, digest, stored, place):
    content = bytearray(stored.read_bytes())
    content[int(place * len(content)) if 0 < place < 1 else place] ^= 4
    stored.write_bytes(content)
    refused_and_made_again(compiling, digest)


@pytest.mark.parametrize("size", [0, 1, 35, 36, 37, 5000, -1])
def test_a_file_cut_short_is_noticed(compiling, digest, stored, size):
    stored.write_bytes(stored.read_bytes()[:size])
    refused_and_made_again(compiling, digest)


def test_a_file_that_grew_is_noticed(compiling, digest, stored):
    stored.write_bytes(stored.read_bytes() + bytes(8))
    refused_and_made_again(compiling, digest)


def test_a_file_under_the_name_of_another_binary_is_noticed(compiling, digest, stored):
    other = compiling.compiled(returns(2))
    [theirs] = set(compiling.modules.iterdir()) - {stored}
    theirs.replace(stored)
    assert other != digest
    refused_and_made_again(compiling, digest)


def test_a_file_under_the_name_of_another_configuration_is_noticed(compiling, digest, stored):
    stored.rename(stored.with_name(stored.name.replace(KEY, "0" * 16)))
    assert not loads(compiling, digest)
    with ModuleFolder(compiling.modules).opened(digest, "0" * 16) as found:
        assert found is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o640, 0o604])
def test_a_file_that_others_could_read_or_write_is_not_used(compiling, digest, stored, mode):
    stored.chmod(mode)
    refused_and_made_again(compiling, digest)


def test_a_link_is_not_followed(compiling, digest, stored, tmp_path):
    stored.rename(tmp_path / "elsewhere")
    stored.symlink_to(tmp_path / "elsewhere")
    refused_and_made_again(compiling, digest)
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo])
def test_what_is_no_file_is_removed(compiling, digest, stored, make):
    stored.unlink()
    make(stored)
    refused_and_made_again(compiling, digest)


def test_files_of_another_user_are_not_used(compiling, digest, stored, monkeypatch):
    folder = ModuleFolder(compiling.modules)
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    with folder.opened(digest, KEY) as found:
        assert found is None
    with pytest.raises(UnsafeFolderError):
        ModuleFolder(compiling.modules)


def forged(name: str, key: bytes) -> bytes:
    """Valid machine code of another program, in a file that is right but for its key."""
    code = bytes(wasmtime.Module(DEFAULT.engine(), returns(666)).serialize())
    described = json.dumps({"component": False, "exports": {"f": True}}).encode()
    content = code + described + struct.pack(">I", len(described))
    return content + hmac.new(key, name.encode() + b"\0" + content, "sha256").digest()


def test_machine_code_from_elsewhere_never_runs(compiling, digest, stored):
    plain = forged(stored.name, b"")
    for content in (plain, plain[:-32] + hashlib.sha256(plain[:-32]).digest(), forged(stored.name, bytes(32))):
        stored.write_bytes(content)
        refused_and_made_again(compiling, digest)


def test_the_forgery_is_right_but_for_its_key(compiling, digest, stored):
    key = (compiling.modules.parent / "modules.key").read_bytes()
    stored.write_bytes(forged(stored.name, key))
    assert called(ModuleCache(compiling.modules).load(digest, DEFAULT), "f") == 666


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o755])
def test_a_folder_that_was_open_to_others_is_closed_and_emptied(compiling, digest, mode):
    compiling.modules.chmod(mode)
    (compiling.modules / "folder").mkdir()
    refused_and_made_again(compiling, digest)
    assert compiling.modules.stat().st_mode & 0o777 == 0o700


def test_a_folder_behind_a_link_is_refused(compiling, digest, tmp_path):
    compiling.modules.rename(tmp_path / "elsewhere")
    compiling.modules.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFolderError, match="modules must be a directory"):
        ModuleFolder(compiling.modules)


@pytest.mark.parametrize("spoil", [lambda p: p.chmod(0o644), lambda p: p.write_bytes(b"short"), lambda p: p.unlink()])
def test_a_key_that_is_not_secret_is_replaced_and_what_it_signed_made_again(compiling, digest, spoil):
    key = compiling.modules.parent / "modules.key"
    spoil(key)
    refused_and_made_again(compiling, digest)
    assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)


def test_processes_that_begin_at_once_agree_on_the_key(tmp_path):
    for round_number in range(20):
        folder = tmp_path / str(round_number) / "modules"
        folder.mkdir(parents=True, mode=0o700)
        with ThreadPoolExecutor(4) as threads:
            folders = list(threads.map(ModuleFolder, [folder] * 4))
        folders[0].keep("sha256:aa", KEY, b"code", CONTENTS, 1 << 20)
        for each in folders:
            with each.opened("sha256:aa", KEY) as found:
                assert found is not None


def used(folder, digest: str, seconds_ago: float) -> None:
    moment = time.time() - seconds_ago
    os.utime(folder / f"{digest.removeprefix('sha256:')}-{KEY}.cwasm", (moment, moment))


def names(folder) -> set[str]:
    return {path.name.partition("-")[0] for path in folder.iterdir()}


def test_what_was_used_longest_ago_makes_room(tmp_path):
    folder = ModuleFolder(tmp_path / "modules")
    for name in ("a", "b", "c"):
        folder.keep(name, KEY, bytes(1000), CONTENTS, 4000)
        used(tmp_path / "modules", name, 1000)
    used(tmp_path / "modules", "b", 2000)
    with folder.opened("a", KEY):
        pass
    folder.keep("d", KEY, bytes(1000), CONTENTS, 4000)
    assert names(tmp_path / "modules") == {"a", "c", "d"}
    folder.keep("e", KEY, bytes(2000), CONTENTS, 4000)
    assert names(tmp_path / "modules") == {"a", "d", "e"}, "what was used just now stays"


def test_what_was_just_made_stays_even_when_it_is_too_large(tmp_path):
    folder = ModuleFolder(tmp_path / "modules")
    folder.keep("a", KEY, bytes(100), CONTENTS, 50)
    used(tmp_path / "modules", "a", 1000)
    folder.keep("b", KEY, bytes(1000), CONTENTS, 50)
    assert names(tmp_path / "modules") == {"b"}


def test_a_module_that_runs_from_memory_counts_as_used(compiling, digest, stored):
    now = 0.0
    modules = ModuleCache(compiling.modules, clock=lambda: now)
    modules.load(digest, DEFAULT)
    used(compiling.modules, digest, 1000)
    modules.load(digest, DEFAULT)
    assert time.time() - stored.stat().st_mtime >= 1000, "a short run costs no system call for it"
    now = TOUCH_EVERY_S + 1
    modules.load(digest, DEFAULT)
    assert time.time() - stored.stat().st_mtime < 100


def test_what_a_killed_compile_left_is_removed(tmp_path):
    folder = ModuleFolder(tmp_path / "modules")
    (tmp_path / "modules" / ".incoming-0123").write_bytes(bytes(100))
    folder.keep("a", KEY, b"", CONTENTS, 1000)
    assert names(tmp_path / "modules") == {"a"}


def test_a_module_can_be_dropped_while_it_is_loaded_and_while_it_runs(compiling, digest):
    folder = ModuleFolder(compiling.modules)
    with folder.opened(digest, KEY) as found:
        folder.drop(digest, KEY)
        module = wasmtime.Module.deserialize_file(DEFAULT.engine(), found.code)
    assert [export.name for export in module.exports] == ["f"]
    assert compiling.compile(returns(1)).compiled
    modules = ModuleCache(compiling.modules)
    loaded = modules.load(digest, DEFAULT)
    folder.drop(digest, KEY)
    assert called(loaded, "f") == 1
    assert called(modules.load(digest, DEFAULT), "f") == 1, "what is in memory is still what the digest says"


def test_making_room_beside_loading_does_no_harm(tmp_path):
    folder = ModuleFolder(tmp_path / "modules")
    code = os.urandom(50_000)

    def keep(number: int) -> None:
        folder.keep(f"{number % 7}", KEY, code, CONTENTS, 120_000)
        with contextlib.suppress(OSError):
            used(tmp_path / "modules", f"{number % 7}", 1000)

    def read(number: int) -> bool:
        with ModuleFolder(tmp_path / "modules").opened(f"{number % 7}", KEY) as found:
            if found is None:
                return False
            with Path(found.code).open("rb") as file:
                assert file.read(len(code)) == code
            return True

    with ThreadPoolExecutor(4) as threads:
        kept = [threads.submit(keep, number) for number in range(100)]
        found = [threads.submit(read, number) for number in range(300)]
        assert all(each.result() is None for each in kept)
        assert any(each.result() for each in found)


def test_few_modules_stay_in_memory(compiling):
    digests = [compiling.compiled(returns(number)) for number in range(KEPT_LOADED + 1)]
    modules = ModuleCache(compiling.modules)
    for digest in digests:
        modules.load(digest, DEFAULT)
        ModuleFolder(compiling.modules).drop(digest, KEY)
    for digest in digests[1:]:
        modules.load(digest, DEFAULT)
    with pytest.raises(NotCompiled):
        modules.load(digests[0], DEFAULT)


def test_a_disk_that_takes_no_writes_can_still_be_run_from(compiling, digest, stored, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    assert called(ModuleCache(compiling.modules).load(digest, DEFAULT), "f") == 1
    assert stored.exists()
