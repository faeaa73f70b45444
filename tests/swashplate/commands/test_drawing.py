"""The picture of tasks that depend on each other."""

from swashplate.client import Task
from swashplate.commands.drawing import Node, forest, why


def task(name: str, *after: str, status: str = "completed", **more) -> Task:
    return Task(id=f"id-{name}", name=name, status=status, depends_on=list(after), **more)


def shape(nodes: list[Node]) -> list:
    return [(node.task.name, node.also, shape(node.children)) for node in nodes]


def test_every_task_stands_once_below_the_deepest_of_those_before_it():
    tasks = [task("a"), task("b", "id-a"), task("c", "id-a"), task("d", "id-a", "id-c"), task("alone")]
    assert shape(forest(tasks)) == [
        ("a", [], [("b", [], []), ("c", [], [("d", ["a"], [])])]),
        ("alone", [], []),
    ]


def test_tasks_may_be_named_by_name_and_stand_before_those_they_depend_on():
    assert shape(forest([task("late", "early"), task("early")])) == [("early", [], [("late", [], [])])]


def test_a_cycle_and_a_missing_parent_lose_no_task():
    cyclic = [task("a", "b"), task("b", "a"), task("c", "nowhere"), task("self", "self")]
    assert [name for name, _, _ in shape(forest(cyclic))] == ["a", "b", "c", "self"]


def test_a_skipped_task_says_which_of_those_before_it_is_the_reason():
    tasks = [task("ok"), task("bad", status="failed"), task("gone", status="skipped")]
    skipped = task("x", "ok", "bad", "gone", status="skipped")
    assert why(skipped, [*tasks, skipped]) == "bad failed and gone was skipped"
    unneeded = task("alarm", "ok", status="skipped", run_if="failure")
    assert why(unneeded, [*tasks, unneeded]) == "runs only if one fails, and ok did not"


def test_the_managers_own_reason_comes_first_and_others_have_none():
    assert why(task("x", status="skipped", error="because"), []) == "because"
    assert why(task("x", status="pending", waiting="no slot is free"), []) == "no slot is free"
    assert why(task("x", error="ignored"), []) == ""


def test_a_pending_task_says_what_it_waits_for():
    waiting = task("y", "x", status="pending")
    assert why(waiting, [task("x", status="running"), waiting]) == "waits for x"
