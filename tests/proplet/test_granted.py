"""How full the file system of a granted directory may become."""

from __future__ import annotations

import os

import pytest

from proplet.sandbox import granted
from proplet.sandbox.entry import GuestError

GIB = 1 << 30


def state(size: int, free: int, files: int = 1000, free_files: int = 500) -> os.statvfs_result:
    """Of a file system of ``size`` bytes, in blocks of 4096."""
    return os.statvfs_result(
        (4096, 4096, size // 4096, free // 4096, free // 4096, files, free_files, free_files, 0, 255)
    )


@pytest.mark.parametrize(
    ("size", "free", "left"),
    [
        (10 * GIB, 2 * GIB, 1.5 * GIB),
        (1000 * GIB, 50 * GIB, 49 * GIB),
        (64 << 20, 32 << 20, (32 << 20) - (64 << 20) / 20),
    ],
)
def test_a_twentieth_is_kept_and_no_more_than_a_gigabyte(size, free, left):
    assert granted._room(state(size, free), "/data") == pytest.approx(left, abs=8192)


@pytest.mark.parametrize(
    "there",
    [state(10 * GIB, GIB // 4), state(1000 * GIB, GIB - 8192), state(10 * GIB, 5 * GIB, files=1000, free_files=49)],
)
def test_a_run_ends_when_little_is_left_and_the_numbers_are_told(there):
    with pytest.raises(GuestError) as error:
        granted._room(there, "/data")
    assert error.value.code == "directory_full"
    assert f"/data is nearly full, {there.f_bavail * 4096} bytes and {there.f_favail} files are free" in str(
        error.value.sentence
    )


def test_a_file_system_that_does_not_count_its_files_has_no_limit_of_them():
    assert granted._room(state(10 * GIB, 5 * GIB, files=0, free_files=0), "/data") > 0
