"""What a guest cannot reach: paths beside its own, what its process inherited, more of a directory than was granted."""

from __future__ import annotations

import pytest

from tests.support.sandbox import Sandbox, errno_of, escaped

WASI = "wasi_snapshot_preview1"
BADF = 8
IN, OUT, GRANTED = 3, 4, 5
READ, WRITE = 2, 64
CREATE, TRUNCATE = 1, 8

IMPORTS = f"""
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (import "{WASI}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "{WASI}" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "{WASI}" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "{WASI}" "path_filestat_get" (func $status (param i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "path_filestat_set_times" (func $touch (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
  (import "{WASI}" "path_readlink" (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_fdstat_get" (func $about (param i32 i32) (result i32)))
  (import "{WASI}" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
"""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"), env={"PROPLET_CLIENT_KEY": "secret"})
    yield sandbox
    sandbox.remove()


class Paths:
    """Places in a guest's memory for the paths that its steps name."""

    def __init__(self) -> None:
        self.data = ""
        self._at = 1000

    def __call__(self, path: str) -> str:
        """Where it is and how long, as two arguments."""
        at, length = self._at, len(path.encode())
        self.data += f'(data (i32.const {at}) "{escaped(path)}")'
        self._at += length
        return f"(i32.const {at}) (i32.const {length})"


def opens(path: str, folder: int, how: int = 0, rights: int = READ) -> str:
    return f"""(call $open (i32.const {folder}) (i32.const 1) {path} (i32.const {how}) (i64.const {rights})
      (i64.const 0) (i32.const 0) (i32.const 8))"""


def guest(paths: Paths, *steps: str) -> str:
    """Exits with the errno of the last step; the others are only tried."""
    *before, last = steps
    tried = "\n".join(f"(drop {step})" for step in before)
    return f"""(module {IMPORTS} (memory (export "memory") 1) {paths.data}
      (func (export "_start") {tried} (call $exit {last})))"""


OUTSIDE = [
    "../stdout",
    "../../modules",
    "/etc/passwd",
    "/",
    "..",
    "a/../../stdout",
    "./../in/task.json",
    "//etc/passwd",
]


def reached(*steps: str) -> str:
    """How many of the steps were done without an error."""
    return "(i32.const 0)" + "".join(f"(i32.eqz {step}) (i32.add)" for step in steps)


def counting(paths: Paths, *steps: str) -> str:
    return f"""(module {IMPORTS} (memory (export "memory") 1) {paths.data}
      (func (export "_start") {reached(*steps)} (call $exit)))"""


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_path_leads_outside(sandbox, deterministic):
    paths = Paths()
    steps = []
    for folder in (IN, OUT):
        for path in map(paths, OUTSIDE):
            steps += [opens(path, folder), opens(path, folder, CREATE, WRITE)]
            steps.append(f"(call $status (i32.const {folder}) (i32.const 1) {path} (i32.const 64))")
    assert (
        sandbox.run(counting(paths, *steps), given={"task.json": b"{}"}, deterministic=deterministic).answer.error == ""
    )


@pytest.mark.parametrize("target", ["/etc/passwd", "../stdout", "../../modules", "../in/secret", "."])
def test_a_link_that_a_guest_makes_leads_nowhere_outside(sandbox, target):
    paths = Paths()
    link = f"(call $symlink {paths(target)} (i32.const {OUT}) {paths('link')})"
    name, inner = paths("link"), paths("link/../../stdout")
    tries = [opens(name, OUT, 0, WRITE), opens(inner, OUT), opens(inner, OUT, CREATE, WRITE)]
    if target != ".":
        tries += [opens(name, OUT), f"(call $status (i32.const {OUT}) (i32.const 1) {name} (i32.const 64))"]
    ran = sandbox.run(
        f"""(module {IMPORTS} (memory (export "memory") 1) {paths.data}
      (func (export "_start") (drop {link}) {reached(*tries)} (call $exit)))""",
        given={"secret": b"s"},
    )
    assert ran.answer.error == ""
    assert (ran.out / "link").is_symlink() == (not target.startswith("/"))


def test_a_file_of_in_can_neither_be_changed_nor_taken_to_where_it_could(sandbox):
    """It is a hard link to the cache of all tasks."""
    paths = Paths()
    old, new = paths("data"), paths("new")
    steps = [
        f"(call $link (i32.const {IN}) (i32.const 0) {old} (i32.const {OUT}) {new})",
        f"(call $link (i32.const {IN}) (i32.const 0) {old} (i32.const {IN}) {new})",
        f"(call $rename (i32.const {IN}) {old} (i32.const {OUT}) {new})",
        f"(call $rename (i32.const {IN}) {old} (i32.const {IN}) {new})",
        f"(call $unlink (i32.const {IN}) {old})",
        f"(call $mkdir (i32.const {IN}) {new})",
        f"(call $symlink {old} (i32.const {IN}) {new})",
        f"(call $touch (i32.const {IN}) (i32.const 0) {old} (i64.const 0) (i64.const 0) (i32.const 10))",
        opens(old, IN, 0, WRITE),
        opens(old, IN, TRUNCATE, READ | WRITE),
        opens(new, IN, CREATE, WRITE),
    ]
    ran = sandbox.run(counting(paths, *steps), given={"data": b"kept"})
    assert ran.answer.error == ""
    assert (ran.out.parent / "in" / "data").read_bytes() == b"kept"
    assert list(ran.out.iterdir()) == []


def test_a_granted_directory_is_there_and_no_more_than_granted(sandbox, tmp_path):
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(b"kept")
    (tmp_path / "write" / "up").symlink_to("../read/data")
    granted = [(str(tmp_path / "read"), "/scans", False), (str(tmp_path / "write"), "/work", True)]
    paths = Paths()
    old, new, above, up = paths("data"), paths("new"), paths("../read/data"), paths("up")
    refused = [
        opens(old, GRANTED, 0, WRITE),
        opens(new, GRANTED, CREATE, WRITE),
        f"(call $unlink (i32.const {GRANTED}) {old})",
        f"(call $link (i32.const {GRANTED}) (i32.const 0) {old} (i32.const {GRANTED + 1}) {new})",
        f"(call $rename (i32.const {GRANTED}) {old} (i32.const {GRANTED + 1}) {new})",
        opens(above, GRANTED + 1),
        opens(up, GRANTED + 1),
    ]
    assert sandbox.run(counting(paths, *refused), directories=granted).answer.error == ""
    done = [opens(old, GRANTED), opens(old, GRANTED + 1), opens(new, GRANTED + 1, CREATE, WRITE)]
    assert errno_of(sandbox.run(counting(paths, *done), directories=granted)) == len(done)
    assert (tmp_path / "write" / "new").exists()
    assert [path.name for path in (tmp_path / "read").iterdir()] == ["data"]


def test_a_directory_that_is_not_there_fails_the_run(sandbox, tmp_path):
    ran = sandbox.run(guest(Paths(), "(i32.const 0)"), directories=[(str(tmp_path / "none"), "/scans", False)])
    assert (ran.code, ran.answer.error) == ("directory_unavailable", "the directory for /scans cannot be opened")


def test_a_guest_inherits_no_descriptor_and_no_environment(sandbox):
    paths = Paths()
    about = [f"(call $about (i32.const {fd}) (i32.const 64))" for fd in range(OUT + 1, 256)]
    assert sandbox.run(counting(paths, *about)).answer.error == ""
    assert errno_of(sandbox.run(guest(paths, about[0]))) == BADF
    variables = "(call $environ (i32.const 64) (i32.const 68))"
    assert sandbox.run(guest(paths, variables, "(i32.load (i32.const 64))")).answer.error == ""
    given = sandbox.run(guest(paths, variables, "(i32.load (i32.const 64))"), env={"A": "1"})
    assert errno_of(given) == 1
