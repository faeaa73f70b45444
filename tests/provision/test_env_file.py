from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import env_file, files
from swashplate.errors import ConfigurationError

KEYS = ["MANAGER_CLIENT_ID", "PROPLET_CLIENT_KEY", "PROXY_DOMAIN_ID"]

values = st.dictionaries(st.sampled_from(KEYS), st.text("abcXYZ019-_.:/@%+,=~", min_size=1), min_size=1)
any_line = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b""))
our_line = st.builds(
    lambda before, key, between, value, after: before + key.encode() + between + value + after,
    st.sampled_from([b"", b"  ", b"\t", b"#", b"# ", b"export ", b"  # export "]),
    st.sampled_from(KEYS),
    st.sampled_from([b"=", b" = ", b"= "]),
    st.sampled_from([b"", b'""', b"old", b'"old"', b"'old'"]),
    st.sampled_from([b"", b"\r", b"  # why", b" ", b"  # MANAGER_CLIENT_ID=example"]),
)
content = st.lists(any_line | our_line, max_size=12).map(b"\n".join)


def is_ours(raw: bytes, keys: object) -> bool:
    name = raw.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t").removeprefix(b"#").lstrip(b" \t")
    name = name.removeprefix(b"export").lstrip(b" \t").partition(b"=")[0].rstrip(b" \t")
    return name in {key.encode() for key in keys}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def backup(path: Path) -> Path:
    return path.with_name(".env.bak")


@given(content, values)
def test_every_other_line_keeps_its_order_and_its_bytes(before, wanted):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, ".env")
        path.write_bytes(before)
        env_file.update(path, wanted)
        after = path.read_bytes().split(b"\n")
    lines = before.split(b"\n")
    others = [raw for raw in (lines if lines[-1] else lines[:-1]) if not is_ours(raw, wanted)]
    for i, raw in enumerate(after):
        if others and raw in {others[0], others[0] + b"\r"} and (raw == others[0] or others[0] == lines[-1]):
            del others[0]  # the last line, when it had no end and one is needed, may gain a carriage return
        else:
            is_moved_comment = raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"#")
            assert is_ours(raw, wanted) or is_moved_comment or (not raw and i == len(after) - 1)
    assert not others


@given(content, values)
def test_the_guides_shell_lines_read_every_value(before, wanted):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, ".env")
        path.write_bytes(before)
        env_file.update(path, wanted)
        after = path.read_bytes().split(b"\n")
    for key, value in wanted.items():
        seen = [raw for raw in after if raw.startswith(key.encode() + b"=") and b'=""' not in raw]
        # Only an indentation or an `export` that was there before hides a line from `grep ^KEY=`.
        hidden = any(raw.startswith((b" ", b"\t", b"export", b"\xef\xbb\xbf")) and is_ours(raw, [key]) for raw in after)
        assert seen or hidden
        if seen:
            assert seen[-1].partition(b"=")[2].replace(b'"', b"") == value.encode()


@given(content, values)
def test_what_was_written_is_read_back_and_writing_it_again_changes_nothing(before, wanted):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, ".env")
        path.write_bytes(before)
        env_file.update(path, wanted)
        assert env_file.read(path).items() >= wanted.items()
        seen = path.stat()
        assert env_file.update(path, wanted) is False
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (seen.st_mtime_ns, seen.st_ino)


@given(st.text())
def test_a_value_is_read_back_as_it_is_or_refused(value):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, ".env")
        try:
            env_file.update(path, {"KEY": value})
        except ConfigurationError:
            assert not path.exists()
        else:
            assert env_file.read(path) == {"KEY": value}


@given(st.binary())
def test_any_bytes_can_be_read(before):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, ".env")
        path.write_bytes(before)
        env_file.read(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("K=3fe95a65-74f1  # For proplet-1", "3fe95a65-74f1"),
        ('K="3fe9"', "3fe9"),
        ("K='3fe9' # c", "3fe9"),
        ("K=a\nK=b", "b"),
        ('K=a\nK=""', "a"),
        ("K=a\nK=", "a"),
        ("K=a\nK=   # later", "a"),
        ("K=", ""),
        ("export K=a", "a"),
        ("  K = a \r", "a"),
        ("K=a#b", "a#b"),
        ("K=a=b==", "a=b=="),
        ('K="a # b"', "a # b"),
        ("#K=b\nK=a", "a"),
        ("\ufeffK=a", "a"),
    ],
)
def test_reads_the_forms_people_write(path, text, value):
    path.write_text(text, newline="")
    assert env_file.read(path) == {"K": value}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"K=v\n"),
        (b"A=1", b"A=1\nK=v\n"),
        (b"A=1\r\nB=2\r\n", b"A=1\r\nB=2\r\nK=v\n"),
        (b"A=1\r\nB=2\r\nC=3", b"A=1\r\nB=2\r\nC=3\r\nK=v\n"),
        (b"K=old", b"K=v"),
        (b"A=1\r\nK=v\r\nB=2\r\n", b"A=1\r\nK=v\nB=2\r\n"),
        (b"  K=old  # why\r\nA=1", b"  # why\n  K=v\nA=1"),
        (b"K=v      # For proplet-1\n", b"# For proplet-1\nK=v\n"),
        (b'export K="old" # caf\xe9\n', b"# caf\xe9\nexport K=v\n"),
        (b"# K=example  # why\n", b"# why\nK=v\n"),
        (b"\xef\xbb\xbfK=old # why\n", b"\xef\xbb\xbf# why\nK=v\n"),
        (b"K = v\nK='v'\n", b"K=v\nK=v\n"),
        (b'K=""\nA=1\nK=old\n', b"K=v\nA=1\nK=v\n"),
        (b"# K=example\nA=1\n", b"K=v\nA=1\n"),
        (b"# K=one\n  #K=two\n", b"# K=one\n  K=v\n"),
        (b"# K=example\nK=old\n", b"# K=example\nK=v\n"),
        (b"export K=old\n", b"export K=v\n"),
        (b"# caf\xe9\nKK=1\nA_K=2\n", b"# caf\xe9\nKK=1\nA_K=2\nK=v\n"),
        (b"\xef\xbb\xbfK=old\n", b"\xef\xbb\xbfK=v\n"),
    ],
)
def test_changes_only_the_lines_of_its_variables(path, before, after):
    path.write_bytes(before)
    assert env_file.update(path, {"K": "v"}) is True
    assert path.read_bytes() == after
    assert backup(path).read_bytes() == before


@pytest.mark.parametrize("before", [b"K=v", b'K="v"\n', b"  export K=v", b'# K=example # x\nK=v\nK="v"\n'])
def test_a_value_that_is_there_in_another_form_is_left_alone(path, before):
    path.write_bytes(before)
    assert env_file.update(path, {"K": "v"}) is False
    assert path.read_bytes() == before
    assert not backup(path).exists()


def test_file_and_backup_are_private_from_the_first_byte(path, monkeypatch):
    path.write_bytes(b"OLD=secret\n")
    path.chmod(0o644)
    modes = []
    fsync = os.fsync

    def look_and_sync(handle: int) -> None:
        modes.extend(stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.glob("*.tmp"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look_and_sync)
    before = os.umask(0)
    try:
        env_file.update(path, {"K": "v"})
    finally:
        os.umask(before)
    assert set(modes) == {0o600}
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, backup(path))] == [0o600, 0o600]


@pytest.mark.parametrize(("mode", "then"), [(0o644, 0o600), (0o660, 0o600), (0o600, 0o600), (0o444, 0o400)])
def test_a_file_that_needs_no_change_is_made_private_and_keeps_its_time(path, mode, then):
    path.write_bytes(b"K=v\n")
    path.chmod(mode)
    os.utime(path, (1, 1))
    assert env_file.update(path, {"K": "v"}) is False
    assert stat.S_IMODE(path.stat().st_mode) == then
    assert path.stat().st_mtime == 1


def test_a_symbolic_link_stays_and_its_target_is_written(path, tmp_path):
    target = tmp_path / "elsewhere" / "real.env"
    target.parent.mkdir()
    target.write_bytes(b"A=1\n")
    path.symlink_to(target)
    env_file.update(path, {"K": "v"})
    assert path.is_symlink()
    assert target.read_bytes() == b"A=1\nK=v\n"
    assert backup(path).read_bytes() == b"A=1\n"


def test_a_symbolic_link_to_nothing_creates_its_target(path, tmp_path):
    path.symlink_to(tmp_path / "real.env")
    env_file.update(path, {"K": "v"})
    assert (tmp_path / "real.env").read_bytes() == b"K=v\n"


def test_a_new_file_begins_with_the_example_if_there_is_one(path, tmp_path):
    example = tmp_path / ".env.example"
    env_file.update(path, {"K": "v"}, example=example)
    assert path.read_bytes() == b"K=v\n"
    path.unlink()
    example.write_bytes(b"# Ids\nK=\nA=1\n")
    assert env_file.update(path, {"K": "v"}, example=example) is True
    assert path.read_bytes() == b"# Ids\nK=v\nA=1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert example.read_bytes() == b"# Ids\nK=\nA=1\n"
    assert not backup(path).exists()
    env_file.update(path, {"K": "w"}, example=example)
    assert path.read_bytes() == b"# Ids\nK=w\nA=1\n"


def test_a_new_file_has_no_backup(path):
    assert env_file.update(path, {"K": "v"}) is True
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    path.write_bytes(b"K=old\n")
    replace = Path.replace

    def full_disk(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        env_file.update(path, {"K": "v"})
    assert path.read_bytes() == b"K=old\n"
    assert set(path.parent.iterdir()) == {path, backup(path)}


def test_what_cannot_be_an_env_file_is_refused_with_its_name(path):
    path.mkdir()
    with pytest.raises(ConfigurationError, match=r"\.env is a directory"):
        env_file.read(path)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        env_file.read(Path("/dev/null"))
    loop = path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ConfigurationError, match="loop"):
        env_file.update(loop, {"K": "v"})


def test_a_missing_directory_is_named(tmp_path):
    with (
        pytest.raises(ConfigurationError, match=r"nowhere: No such file or directory"),
        files.locked(tmp_path / "nowhere" / ".env"),
    ):
        pass
