"""What a guest cannot do to the machine that runs it."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import wasmtime

PREVIEW1 = "wasi_snapshot_preview1"


def module(body: str, *, imports: str = "", data: str = "") -> str:
    return f"""(module
      (import "{PREVIEW1}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "{PREVIEW1}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "{PREVIEW1}" "proc_exit" (func $exit (param i32)))
      {imports}
      (memory (export "memory") 2) {data}
      {body})"""


def writes_file(directory: int, path: str, text: str) -> str:
    """Creates ``path`` below the preopened ``directory`` (3 is /in, 4 is /out); exits with the errno of the failure."""
    escaped = "".join(f"\\{byte:02x}" for byte in text.encode())
    return module(
        f"""(func (export "_start") (local $errno i32)
          (local.set $errno (call $open (i32.const {directory}) (i32.const 0) (i32.const 100) (i32.const {len(path)})
            (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 8)))
          (if (local.get $errno) (then (call $exit (local.get $errno))))
          (i32.store (i32.const 0) (i32.const 1000)) (i32.store (i32.const 4) (i32.const {len(text.encode())}))
          (drop (call $write (i32.load (i32.const 8)) (i32.const 0) (i32.const 1) (i32.const 20))))""",
        data=f'(data (i32.const 100) "{path}") (data (i32.const 1000) "{escaped}")',
    )


FLOOD = module(
    """(func (export "_start")
      (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 65536))
      (loop $again
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
        (br $again)))"""
)
FLOOD_STDERR = FLOOD.replace("(call $write (i32.const 1)", "(call $write (i32.const 2)")
GROWS = """(module (memory (export "memory") 1) (func (export "grow") (param i32) (result i32)
  (memory.grow (local.get 0))))"""
RECURSES = '(module (func $f (export "_start") (call $f)))'
MANY_FILES = module(
    """(func (export "_start") (local $i i32)
      (loop $again
        (i32.store8 (i32.const 100) (i32.add (i32.const 97) (i32.rem_u (local.get $i) (i32.const 26))))
        (i32.store8 (i32.const 101)
          (i32.add (i32.const 97) (i32.rem_u (i32.div_u (local.get $i) (i32.const 26)) (i32.const 26))))
        (i32.store8 (i32.const 102)
          (i32.add (i32.const 97) (i32.rem_u (i32.div_u (local.get $i) (i32.const 676)) (i32.const 26))))
        (if (i32.eqz (call $open (i32.const 4) (i32.const 0) (i32.const 100) (i32.const 3)
              (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 8)))
          (then (drop (call $close (i32.load (i32.const 8))))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $again)))""",
    imports=f'(import "{PREVIEW1}" "fd_close" (func $close (param i32) (result i32)))',
)


def nests(levels: int, then: str = "") -> str:
    """Makes ``levels`` directories, each in the one before, and then does ``then``."""
    return module(
        f"""(func (export "_start") (local $in i32) (local $i i32)
          (local.set $in (i32.const 4))
          (loop $again
            (if (call $mkdir (local.get $in) (i32.const 100) (i32.const 1)) (then (call $exit (i32.const 1))))
            (if (call $open (local.get $in) (i32.const 0) (i32.const 100) (i32.const 1)
                  (i32.const 2) (i64.const 8704) (i64.const 268435455) (i32.const 0) (i32.const 8))
              (then (call $exit (i32.const 2))))
            (if (local.get $i) (then (drop (call $close (local.get $in)))))
            (local.set $in (i32.load (i32.const 8)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const {levels}))))
          {then})""",
        imports=f"""(import "{PREVIEW1}" "fd_close" (func $close (param i32) (result i32)))
          (import "{PREVIEW1}" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))""",
        data='(data (i32.const 100) "a")',
    )


WRITES_ON = """(i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 65536))
  (loop $more (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20))) (br $more))"""

KEEPS_OPEN = MANY_FILES.replace("(then (drop (call $close (i32.load (i32.const 8)))))", "(then)")


async def test_a_result_file_wins_over_stdout(world, proplet):
    result = await world.manager.outcome(world.start(writes_file(4, "result.json", '{"answer": [42, 0.5]}')))
    assert result.results == {"answer": [42, 0.5]}


async def test_a_result_file_that_is_not_json_is_an_error(world, proplet):
    result = await world.manager.outcome(world.start(writes_file(4, "result.json", "{")))
    assert result.code == "result_invalid"


async def test_the_input_directory_cannot_be_written(world, proplet):
    result = await world.manager.outcome(world.start(writes_file(3, "new", "x")))
    assert result.error.startswith("process exited with status")


async def test_a_cached_dataset_cannot_be_altered_by_a_guest(world, proplet):
    world.site.datasets.put("d", [{"x": [1.0], "y": 1}])
    overwrite = writes_file(3, "data/dataset.json", "evil")
    async with world.site.data_store():
        result = await world.manager.outcome(world.start(overwrite, dataset="d"))
    assert result.code == "guest_exit"


@pytest.mark.parametrize("path", ["../stdout", "/etc/passwd", "../../escape"])
async def test_nothing_outside_the_two_directories_can_be_reached(world, proplet, path):
    result = await world.manager.outcome(world.start(writes_file(4, path, "x")))
    assert result.code == "guest_exit"


async def test_a_link_in_place_of_the_result_is_not_followed(world, proplet):
    secret = world.tmp_path / "secret.json"
    secret.write_text('"secret"')
    guest = module(
        """(func (export "_start")
          (call $exit (call $symlink (i32.const 200) (i32.const 15) (i32.const 4) (i32.const 100) (i32.const 11))))""",
        imports=f'(import "{PREVIEW1}" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))',
        data='(data (i32.const 100) "result.json") (data (i32.const 200) "../in/task.json")',
    )
    assert (await world.manager.outcome(world.start(guest))).code == "result_invalid"


async def test_memory_stops_growing_at_the_limit(world):
    async with world.proplet(PROPLET_MEMORY_LIMIT=str(2 << 20)):
        within = await world.manager.outcome(world.start(GROWS, name="grow", inputs=["31"]))
        beyond = await world.manager.outcome(world.start(GROWS, name="grow", inputs=["32"]))
    assert (within.results, beyond.results) == ("1", "-1")


async def test_a_module_that_needs_more_than_the_limit_does_not_start(world):
    async with world.proplet(PROPLET_MEMORY_LIMIT=str(2 << 20)):
        result = await world.manager.outcome(world.start('(module (memory 33) (func (export "_start")))'))
    assert "memory" in result.error


@pytest.mark.parametrize(
    ("guest", "code"),
    [
        ('(module (memory 1) (memory 1) (func (export "_start")))', "memory_limit"),
        ('(module (memory i64 1) (func (export "_start")))', "guest_invalid"),
        ('(module (memory 1 1 shared) (func (export "_start")))', "guest_invalid"),
        ('(module (table 1000000 funcref) (func (export "_start")))', "table_limit"),
    ],
)
async def test_second_64_bit_and_shared_memories_and_huge_tables_are_refused(world, proplet, guest, code):
    result = await world.manager.outcome(world.start(guest))
    assert result.code == code


async def test_endless_recursion_is_a_trap(world, proplet, guests):
    result = await world.manager.outcome(world.start(RECURSES))
    assert (result.code, "stack" in result.error) == ("stack_overflow", True)
    assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"


async def test_a_flood_of_output_is_cut_at_the_limit(world, guests):
    async with world.proplet(PROPLET_OUTPUT_LIMIT=str(1 << 20)):
        result = await world.manager.outcome(world.start(FLOOD))
        assert (result.code, result.retryable) == ("output_limit", False)
        assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"


async def test_a_flood_of_small_files_is_cut_at_the_limit(world):
    async with world.proplet(PROPLET_OUTPUT_LIMIT=str(1 << 20)):
        assert (await world.manager.outcome(world.start(MANY_FILES))).code == "output_limit"


async def test_deep_directories_neither_harm_the_proplet_nor_outlive_the_task(world, guests):
    async with world.proplet() as proplet:
        guest = nests(2500)
        await world.manager.outcome(world.start(guest))
        before = set(proplet.pool.processes())
        result = await world.manager.outcome(world.start(guest))
        assert (result.error, result.results) == (None, "")
        assert before <= set(proplet.pool.processes())
        assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"
    assert not (world.tmp_path / "tasks").exists()


async def test_the_limit_holds_beside_deep_directories(world):
    async with world.proplet(PROPLET_OUTPUT_LIMIT=str(16 << 20)):
        result = await world.manager.outcome(world.start(nests(1500, WRITES_ON)))
    assert (result.code, "over the limit of 16777216 bytes" in result.error) == ("output_limit", True)
    assert not (world.tmp_path / "tasks").exists()


async def test_a_proplet_starts_over_the_deep_directories_of_a_killed_one(world):
    left = world.tmp_path / "tasks" / "task-left" / "out"
    left.mkdir(parents=True)
    handle = os.open(left, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("a", dir_fd=handle)
        inner = os.open("a", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    async with world.proplet():
        assert [path.name for path in (world.tmp_path / "tasks").iterdir()] == [".lock"]


@pytest.mark.parametrize("guest", [MANY_FILES, nests(600), nests(600, "(loop $on (br $on))")])
async def test_files_and_directories_are_counted(world, guest):
    async with world.proplet(PROPLET_OUTPUT_FILES="500"):
        result = await world.manager.outcome(world.start(guest))
    assert (result.code, result.retryable) == ("file_limit", False)
    assert result.error == "the output is over the limit of 500 files and directories"


async def test_a_guest_that_takes_every_descriptor_is_not_rid_of_its_limit(world):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit[1]))
    try:
        async with world.proplet():
            result = await world.manager.outcome(world.start(KEEPS_OPEN))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert result.code == "file_limit"
    assert "more files open" in result.error


async def test_a_flood_of_stderr_is_cut_in_the_log(world, proplet, logged):
    start = world.start(FLOOD_STDERR)
    await world.manager.start(start)
    assert await logged.until("stderr of the task was cut")
    await world.manager.stop(start.id)
    assert (await world.manager.result(start.id)).code == "stopped"


async def test_a_flood_of_short_lines_is_cut_too(world, proplet, guests, logged):
    await world.manager.outcome(world.start(guests["prints"]("x\n" * 100_000, to=2)))
    assert await logged.until("stderr of the task was cut")
    assert sum(line.get("stream") == "stderr" for line in logged) < 20_000


async def test_a_result_over_the_limit_is_refused(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["prints"]("x" * 200_000)))
    assert result.code == "result_too_large"


async def test_text_that_grows_in_json_counts_as_it_is_sent(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["prints"]("\1" * 100_000)))
    assert result.code == "result_too_large"


async def test_an_unknown_import_is_an_error_that_names_it(world, proplet):
    result = await world.manager.outcome(world.start('(module (import "env" "f" (func)) (func (export "_start")))'))
    assert result.code == "import_not_allowed"
    assert "env::f" in result.error


async def test_a_binary_that_does_not_compile_is_an_error(world, proplet):
    result = await world.manager.outcome(world.start(b"\0asm\x01\0\0\0garbage"))
    assert result.code == "guest_invalid"


async def test_compiled_modules_are_private_and_checked_before_use(world, guests):
    guest = guests["prints"]("compiled")
    modules = world.tmp_path / "state" / "modules"
    async with world.proplet():
        await world.manager.outcome(world.start(guest))
    [kept] = modules.iterdir()
    assert modules.stat().st_mode & 0o777 == 0o700
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    async with world.proplet():
        assert (await world.manager.outcome(world.start(guest))).results == "compiled"
    [again] = modules.iterdir()
    assert again.read_bytes() != bytes(content)


async def test_a_binary_altered_on_disk_is_fetched_again(world, guests):
    guest = guests["prints"]("first")
    async with world.proplet():
        start = world.start(guest)
        await world.manager.outcome(start)
    state = world.tmp_path / "state"
    for compiled in (state / "modules").iterdir():
        compiled.unlink()
    path = state / "binaries" / start.digest.removeprefix("sha256:")
    path.write_bytes(bytes(wasmtime.wat2wasm(guests["prints"]("other"))))
    async with world.proplet():
        failed = await world.manager.outcome(world.start(guest))
        assert (failed.code, failed.retryable) == ("digest_mismatch", True)
        assert (await world.manager.outcome(world.start(guest))).results == "first"


async def test_the_worker_inherits_neither_environment_nor_folder(world, proplet, guests, monkeypatch):
    monkeypatch.setenv("PROPLET_CLIENT_KEY", "secret")
    await world.manager.outcome(world.start(guests["prints"]("x")))
    [worker] = proplet.pool.processes()
    assert Path(f"/proc/{worker}/environ").read_bytes() == b""
    assert list(Path(f"/proc/{worker}/cwd").iterdir()) == []


async def test_task_folders_are_closed_to_others(world, proplet, guests, logged):
    await world.manager.start(world.start(guests["loops"]))
    await logged.until("looping")
    [folder] = (world.tmp_path / "tasks").glob("task-*")
    for path in (folder, folder / "in", folder / "out"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert json.loads((folder / "in" / "task.json").read_text())["name"] == "task"


COMPONENT = """(component
  (core module $m (func (export "run") (result i32) {body}))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $exported (export "run" (func $run)))
  (export "{name}" (instance $exported)))"""


async def test_a_command_component_runs(world, proplet):
    guest = COMPONENT.format(body="i32.const 0", name="wasi:cli/run@0.2.0")
    for _ in range(2):
        result = await world.manager.outcome(world.start(guest))
        assert (result.results, result.error) == ("", None)


async def test_a_component_that_fails_or_traps_fails_the_task(world, proplet):
    failing = COMPONENT.format(body="i32.const 1", name="wasi:cli/run@0.2.0")
    assert (await world.manager.outcome(world.start(failing))).code == "guest_exit"
    trapping = COMPONENT.format(body="unreachable", name="wasi:cli/run@0.2.0")
    result = await world.manager.outcome(world.start(trapping))
    assert (result.code, "unreachable" in result.error) == ("trap:unreachable", True)


async def test_another_component_is_refused_with_its_exports(world, proplet):
    result = await world.manager.outcome(world.start(COMPONENT.format(body="i32.const 0", name="my:own/api@1.0.0")))
    assert result.code == "export_not_found"
    assert "my:own/api@1.0.0" in result.error
