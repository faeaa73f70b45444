"""Where running tasks keep their files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading

import pytest

from proplet.runtime import task_folder
from proplet.runtime.task_folder import TaskFolders, choose_root, sweep
from swashplate.errors import ConfigurationError, SwashplateError, UnavailableError


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A stand-in for /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(task_folder, "SHARED_MEMORY", folder)
    return folder


def test_tasks_run_in_memory_in_a_folder_of_their_own(memory, tmp_path):
    root = choose_root(None, tmp_path / "state", "p")
    assert root.parent == memory / f"swashplate-{os.getuid()}"
    assert root.parent.stat().st_mode & 0o777 == 0o700
    assert root != choose_root(None, tmp_path / "other", "p")


def test_a_folder_that_others_may_enter_is_not_used(memory, tmp_path):
    prepared = memory / f"swashplate-{os.getuid()}"
    prepared.mkdir(mode=0o777)
    prepared.chmod(0o777)
    assert choose_root(None, tmp_path / "state", "p") == tmp_path / "state" / "tasks"


def test_a_link_prepared_by_somebody_else_is_not_followed(memory, tmp_path):
    (tmp_path / "trap").mkdir()
    (memory / f"swashplate-{os.getuid()}").symlink_to(tmp_path / "trap")
    assert choose_root(None, tmp_path / "state", "p") == tmp_path / "state" / "tasks"


def test_the_configured_folder_wins(memory, tmp_path):
    assert choose_root(tmp_path / "mine", tmp_path / "state", "p") == tmp_path / "mine"


def test_what_a_killed_proplet_left_is_swept_and_the_living_are_left_alone(tmp_path):
    living = TaskFolders(tmp_path / "living")
    dead = TaskFolders(tmp_path / "dead")
    (tmp_path / "foreign").mkdir()
    os.close(dead._lock)  # as the kernel does for a process that is gone
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "living"]
    living.close()


def test_a_pipe_in_place_of_the_result_does_not_block(tmp_path):
    folder = TaskFolders(tmp_path / "tasks").fresh()
    os.mkfifo(folder.path / "out" / "result.json")
    with pytest.raises(SwashplateError, match="not a file"):
        folder.result_file(100)


def test_leftovers_of_an_earlier_life_are_removed(tmp_path):
    folders = TaskFolders(tmp_path / "tasks")
    (folders.fresh().path / "out" / "old").write_text("x")
    os.close(folders._lock)
    assert list(TaskFolders(tmp_path / "tasks").root.glob("task-*")) == []


def test_a_folder_that_another_process_uses_is_refused_and_left_as_it_is(tmp_path):
    living = TaskFolders(tmp_path / "tasks")
    task = living.fresh()
    with pytest.raises(ConfigurationError, match="in use"):
        TaskFolders(tmp_path / "tasks")
    assert task.path.exists()


@pytest.mark.parametrize("gone", ["the folder", "the common folder"])
def test_a_folder_that_vanished_is_made_again(memory, tmp_path, gone):
    folders = TaskFolders(choose_root(None, tmp_path / "state", "p"))
    shutil.rmtree(folders.root if gone == "the folder" else folders.root.parent)
    task = folders.fresh()
    task.describe({"id": "t"})
    assert task.path.parent == folders.root
    assert folders.root.parent.stat().st_mode & 0o777 == 0o700
    sweep(folders.root.parent)
    assert task.path.exists(), "the new folder is not locked"


def test_a_common_folder_that_somebody_else_made_meanwhile_is_not_entered(memory, tmp_path):
    folders = TaskFolders(choose_root(None, tmp_path / "state", "p"))
    shutil.rmtree(folders.root.parent)
    (tmp_path / "trap").mkdir()
    folders.root.parent.symlink_to(tmp_path / "trap")
    with pytest.raises(UnavailableError, match="somebody else"):
        folders.fresh()
    assert list((tmp_path / "trap").iterdir()) == []


def test_a_clean_end_leaves_nothing_in_memory(memory, tmp_path):
    first, second = (TaskFolders(choose_root(None, tmp_path / name, "p")) for name in ("one", "two"))
    first.fresh()
    first.close()
    assert [path.name for path in first.root.parent.iterdir()] == [second.root.name]
    second.close()
    assert list(memory.iterdir()) == []


def deepened(folders: TaskFolders):
    task = folders.fresh()
    handle = os.open(task.path / "out", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("a", dir_fd=handle)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        inner = os.open("a", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    return task


def test_deep_folders_are_removed_at_the_end_of_a_task_and_of_a_proplet(in_memory):
    folders = TaskFolders(in_memory / "tasks")
    deepened(folders).remove()
    assert [path.name for path in folders.root.iterdir()] == [".lock"]
    deepened(folders)
    folders.close()
    assert list(in_memory.iterdir()) == []


def test_deep_folders_of_a_killed_proplet_are_removed_and_swept(in_memory):
    folders = TaskFolders(in_memory / "tasks")
    deepened(folders)
    os.close(folders._lock)
    folders = TaskFolders(in_memory / "tasks")
    assert [path.name for path in folders.root.iterdir()] == [".lock"]
    deepened(folders)
    os.close(folders._lock)
    sweep(in_memory)
    assert list(in_memory.iterdir()) == []


def test_removals_at_the_same_time_do_not_disturb_each_other(in_memory, logged):
    folders = TaskFolders(in_memory / "tasks")
    task = deepened(folders)
    removals = [threading.Thread(target=task.remove) for _ in range(2)]
    for removal in removals:
        removal.start()
    folders.close()
    for removal in removals:
        removal.join()
    assert list(in_memory.iterdir()) == []
    assert logged == []


async def test_a_folder_whose_run_may_still_write_is_not_used_again(tmp_path):
    folders = TaskFolders(tmp_path / "tasks")
    with folders.lent() as clean:
        pass
    with folders.lent() as ended:
        assert ended.path == clean.path
        ended.reusable = False
    with folders.lent() as fresh:
        assert fresh.path != ended.path


def test_an_input_that_cannot_be_written_says_so(tmp_path):
    folder = TaskFolders(tmp_path / "tasks").fresh()
    (folder.path / "in" / "task.json").mkdir()
    with pytest.raises(UnavailableError, match=r"/in/task\.json cannot be written: Is a directory") as caught:
        folder.describe({})
    with pytest.raises(UnavailableError):
        folder.give("model.json", tmp_path / "nothing")
    assert (caught.value.code, caught.value.retryable) == ("task_folder", True)


def test_too_little_room_in_memory_is_told_at_the_start(memory, tmp_path, logged):
    choose_root(None, tmp_path / "state", "p", 1)
    assert logged == []
    choose_root(None, tmp_path / "state", "p", 1 << 60)
    assert [(entry["folder"], entry["wanted"]) for entry in logged] == [(str(memory), 1 << 60)]


async def test_what_was_clean_in_a_folder_that_vanished_is_not_lent_any_more(tmp_path):
    folders = TaskFolders(tmp_path / "tasks")
    with folders.lent(), folders.lent():
        pass
    shutil.rmtree(folders.root)
    with folders.lent() as first, folders.lent() as second:
        first.describe({"id": "t"})
        second.describe({"id": "u"})


@pytest.mark.parametrize("place", ["in/task.json", "in/data", "in", ""])
def test_a_link_that_was_put_in_the_place_of_an_input_is_not_followed(tmp_path, place):
    """By a guest that broke out of the runtime: we may write where it may not."""
    folder = TaskFolders(tmp_path / "tasks").fresh()
    given, elsewhere = tmp_path / "given", tmp_path / "elsewhere"
    given.write_text("given")
    (elsewhere / "in").mkdir(parents=True)
    (elsewhere / "file").write_text("somebody's")
    replaced = folder.path / place
    if replaced.is_dir():
        shutil.rmtree(replaced)
    replaced.symlink_to(elsewhere if place != "in/task.json" else elsewhere / "file")
    with contextlib.suppress(UnavailableError):
        folder.describe({"id": "t"})
    with contextlib.suppress(UnavailableError):
        folder.give("data/dataset.json", given)
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["file", "in"]
    assert (elsewhere / "file").read_text() == "somebody's"


@pytest.mark.parametrize("place", ["out", ""])
def test_nor_is_one_in_the_place_of_what_was_written(tmp_path, place):
    folder = TaskFolders(tmp_path / "tasks").fresh()
    for result in (tmp_path / "elsewhere" / "result.json", tmp_path / "elsewhere" / "out" / "result.json"):
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text('"somebody\'s"')
    shutil.rmtree(folder.path / place)
    (folder.path / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SwashplateError, match="cannot be read"):
        folder.result_file(1000)
    with pytest.raises(SwashplateError, match="cannot be read"):
        list(folder.result_pieces() or ())


def test_an_input_on_another_file_system_is_copied(tmp_path, monkeypatch):
    folder = TaskFolders(tmp_path / "tasks").fresh()
    given = tmp_path / "given"
    given.write_text("content")

    def another(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "")

    monkeypatch.setattr(os, "link", another)
    folder.give("data/dataset.json", given)
    assert (folder.given("data/dataset.json"), folder.size_of("data/dataset.json")) == ("content", 7)
