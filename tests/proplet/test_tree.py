"""Measuring and removing folders that a guest filled."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from proplet.sandbox import tree
from proplet.sandbox.tree import SMALLEST_FILE, Measured

PLENTY = 1_000_000


def nested(top, name: str, levels: int, *, file_at_each: bool = False):
    """``levels`` folders below ``top``, each in the one before."""
    top.mkdir(exist_ok=True)
    handle = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=handle)
        if file_at_each:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    return top


@pytest.mark.parametrize(("name", "levels"), [("a", 1000), ("a", 6000), ("n" * 255, 300)])
def test_any_depth_is_measured_and_removed(in_memory, name, levels):
    top = nested(in_memory / "top", name, levels, file_at_each=True)
    assert tree.measure(top, PLENTY) == Measured(2 * levels * SMALLEST_FILE, 2 * levels)
    tree.remove(top)
    assert list(in_memory.iterdir()) == []


def test_measuring_and_removing_take_few_descriptors(in_memory):
    top = nested(in_memory / "top", "a", 6000)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 10, limit[1]))
    try:
        assert tree.measure(top, PLENTY).entries == 6000
        tree.remove(top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_counting_stops_above_the_most(tmp_path):
    top = nested(tmp_path / "top", "a", 100)
    assert tree.measure(top, 100).entries == 100
    assert tree.measure(top, 60).entries == 61


def test_blocks_on_disk_are_what_counts(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert 100_000 <= tree.measure(tmp_path, PLENTY).size < 200_000


def test_a_link_is_neither_measured_through_nor_followed(tmp_path):
    outside = nested(tmp_path / "outside", "a", 3)
    (outside / "precious").write_bytes(b"x" * 100_000)
    top = nested(tmp_path / "top", "a", 1)
    (top / "folder").symlink_to(outside)
    (top / "a" / "file").symlink_to(outside / "precious")
    assert tree.measure(top, PLENTY) == Measured(3 * SMALLEST_FILE, 3)
    tree.remove(top)
    assert (outside / "precious").exists()
    assert (outside / "a" / "a" / "a").exists()


def test_what_is_not_there_is_empty_and_already_removed(tmp_path):
    assert tree.measure(tmp_path / "none", PLENTY) == Measured(0, 0)
    tree.remove(tmp_path / "none")


def test_names_that_are_no_text_are_removed(tmp_path):
    top = nested(tmp_path / "top", "a", 1)
    (top / os.fsdecode(b"\xff\xfe") / os.fsdecode(b"\xfd")).mkdir(parents=True)
    assert tree.measure(top, PLENTY).entries == 3
    tree.remove(top)
    assert not top.exists()


def test_a_link_in_place_of_the_folder_is_an_error(tmp_path):
    outside = nested(tmp_path / "outside", "a", 3)
    (tmp_path / "top").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        tree.remove(tmp_path / "top")
    assert (outside / "a" / "a" / "a").exists()
