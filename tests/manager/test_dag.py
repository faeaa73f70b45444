from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.plans.course import Course
from manager.plans.dag import Declared, Mode, Node, Plan, group_state, order, resolve
from manager.state.states import TaskState
from swashplate.errors import InvalidRequestError

P, S, R, C, F, K, I = TaskState  # noqa: E741
JOBS = [Mode.PARALLEL, Mode.SEQUENTIAL, Mode.CONFIGURABLE]


@st.composite
def graphs(draw):
    """Nodes that depend on earlier ones, declared in any order."""
    count = draw(st.integers(1, 8))
    nodes = {}
    for i in range(count):
        parents = draw(st.lists(st.integers(0, i - 1), unique=True, max_size=3)) if i else []
        run_if = draw(st.sampled_from(["", "success", "failure"])) if parents else ""
        nodes[f"t{i}"] = Node(P, tuple(f"t{p}" for p in parents), run_if)
    return {i: nodes[i] for i in draw(st.permutations(sorted(nodes)))}


def with_states(nodes, **states):
    return {i: Node(states.get(i, n.state), n.depends_on, n.run_if, n.name) for i, n in nodes.items()}


def advance(nodes, mode, *, begin=False):
    return Course(nodes, mode).due(nodes if begin else ())


def carried_out(nodes, plan):
    return with_states(nodes, **dict.fromkeys(plan.start, S), **{i: K for i, _ in plan.skip})


def run(data, nodes, mode):
    """To the end, every task ending as is drawn; what happened, in order."""
    told = []
    for turn in range(4 * len(nodes) + 1):
        plan = advance(nodes, mode, begin=turn == 0)
        nodes = carried_out(nodes, plan)
        told.append(plan)
        again = advance(nodes, mode)
        assert (again.start, again.skip, again.stop) == ((), (), plan.stop), "one pass reaches the fixpoint"
        if plan.stop:
            nodes = with_states(nodes, **dict.fromkeys(plan.stop, I))
            continue
        active = [i for i, n in nodes.items() if n.state in {S, R}]
        if not active:
            break
        nodes = with_states(nodes, **{data.draw(st.sampled_from(active)): data.draw(st.sampled_from([C, C, F, I]))})
    return nodes, told


@given(st.data(), graphs(), st.sampled_from(Mode))
def test_everything_ends_and_nothing_is_started_twice(data, nodes, mode):
    nodes, told = run(data, nodes, mode)
    assert all(n.state.ended for n in nodes.values())
    started = [i for plan in told for i in plan.start]
    assert len(started) == len(set(started))
    assert {i for i, n in nodes.items() if n.state is K} == set(nodes) - set(started)


@given(st.data(), graphs(), st.sampled_from(Mode))
def test_one_end_after_the_other_comes_to_what_all_states_together_do(data, nodes, mode):
    course = Course(nodes, mode)
    plan = course.due(nodes)
    told: set[str] = set()
    while True:
        nodes = carried_out(nodes, plan)
        active = [i for i, n in nodes.items() if n.state in {S, R}]
        assert course.open == sum(not n.state.ended for n in nodes.values())
        if not active:
            break
        ended = data.draw(st.sampled_from(active))
        nodes = with_states(nodes, **{ended: data.draw(st.sampled_from([C, C, F, I]))})
        plan, whole = course.ended(ended, nodes[ended].state), advance(nodes, mode)
        assert plan.start == whole.start
        assert [i for i, _ in plan.skip] == [i for i, _ in whole.skip]
        told |= set(plan.stop)
        assert set(whole.stop) <= told
    assert course.open == 0


class Looked(dict):
    """Nodes that count how often one is looked at."""

    times = 0

    def __getitem__(self, i):
        self.times += 1
        return super().__getitem__(i)


@pytest.mark.parametrize("many", [500, 5000])
@pytest.mark.parametrize(
    ("mode", "depends_on"),
    [
        (Mode.SEQUENTIAL, lambda _: ()),
        (Mode.WORKFLOW, lambda i: (f"t{i - 1}",) if i else ()),
        (Mode.CONFIGURABLE, lambda i: ("t0",) if i else ()),
    ],
    ids=["sequential", "chain", "fan"],
)
def test_an_end_costs_what_it_changes_however_many_there_are(mode, depends_on, many):
    nodes = Looked({f"t{i}": Node(P, depends_on(i)) for i in range(many)})
    course = Course(nodes, mode)
    started = list(course.due(nodes).start)
    for i in started:
        started += course.ended(i, C).start
    assert len(started) == many
    assert nodes.times <= 4 * many


def test_the_first_failure_of_a_job_costs_one_pass_and_the_ends_of_what_it_stops_none():
    nodes = Looked({f"t{i}": Node(P) for i in range(1000)})
    course = Course(nodes, Mode.PARALLEL)
    course.due(nodes)
    assert len(course.ended("t0", F).stop) == 999
    before = nodes.times
    assert all(course.ended(f"t{i}", I) == Plan() for i in range(1, 1000))
    assert nodes.times == before
    assert course.open == 0


@given(st.data(), graphs())
def test_in_a_workflow_exactly_what_its_parents_allow_has_run(data, nodes):
    nodes, _ = run(data, nodes, Mode.WORKFLOW)
    for node in nodes.values():
        parents = [nodes[i].state for i in node.depends_on]
        allowed = F in parents if node.run_if == "failure" else all(state is C for state in parents)
        assert (node.state is not K) == allowed


@given(st.data(), graphs(), st.sampled_from(JOBS))
def test_a_job_starts_nothing_after_a_failure_but_what_was_declared_for_it(data, nodes, mode):
    nodes, _ = run(data, nodes, mode)
    assert (group_state(nodes, mode) is TaskState.COMPLETED) == (not {F, I} & {n.state for n in nodes.values()})


@given(st.data(), graphs())
def test_a_sequential_job_runs_one_at_a_time_in_the_order_given(data, nodes):
    _, told = run(data, nodes, Mode.SEQUENTIAL)
    started = [i for plan in told for i in plan.start]
    assert all(len(plan.start) <= 1 for plan in told)
    wanted = [i for i in order({i: n.depends_on for i, n in nodes.items()}) if i in started]
    assert started == wanted


@given(graphs())
def test_parents_come_before_children_and_what_is_free_stays_as_given(nodes):
    found = order({i: n.depends_on for i, n in nodes.items()})
    assert sorted(found) == sorted(nodes)
    assert all(found.index(parent) < found.index(i) for i, n in nodes.items() for parent in n.depends_on)
    alone = {i: Node(P) for i in nodes}
    assert order({i: n.depends_on for i, n in alone.items()}) == tuple(nodes)


@given(graphs(), st.sampled_from(Mode))
def test_the_roots_start_first(nodes, mode):
    assert advance(nodes, mode).start == () or mode is Mode.SEQUENTIAL
    plan = advance(nodes, mode, begin=True)
    assert not plan.skip
    assert not plan.stop
    roots = {i for i, node in nodes.items() if not node.depends_on}
    assert set(plan.start) == roots if mode is not Mode.SEQUENTIAL else plan.start[0] in roots


@given(graphs(), st.sampled_from(Mode), st.data())
def test_a_stop_leaves_nothing_to_start(nodes, mode, data):
    nodes = with_states(nodes, **{i: data.draw(st.sampled_from(TaskState)) for i in nodes})
    course = Course(nodes, mode)
    plan = course.halt("the job was stopped")
    assert all(course.ended(i, I).start == () for i in plan.stop)
    assert course.open == 0
    after = with_states(carried_out(nodes, plan), **dict.fromkeys(plan.stop, I))
    assert all(n.state.ended for n in after.values())


FIVE = {
    "fetch": Node(P),
    "train": Node(P, ("fetch",)),
    "publish": Node(P, ("train",)),
    "announce": Node(P, ("publish",)),
    "repair": Node(P, ("train",), "failure"),
}


def test_a_failing_branch_skips_down_to_the_grandchildren_and_runs_its_handler():
    nodes = with_states(FIVE, fetch=C, train=F)
    assert advance(nodes, Mode.WORKFLOW) == Plan(
        start=("repair",),
        skip=(
            ("publish", "it depends on train, which failed"),
            ("announce", "it depends on publish, which was skipped"),
        ),
    )


def test_a_workflow_whose_failure_was_dealt_with_has_completed():
    ended = with_states(FIVE, fetch=C, train=F, publish=K, announce=K, repair=C)
    assert group_state(ended, Mode.WORKFLOW) is C
    assert group_state(ended, Mode.CONFIGURABLE) is F
    assert group_state(with_states(ended, repair=F), Mode.WORKFLOW) is F
    assert group_state(with_states(ended, repair=I), Mode.WORKFLOW) is F
    assert group_state(with_states(ended, fetch=F), Mode.WORKFLOW) is F


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([P, P], P),
        ([C, P], R),
        ([R, P], R),
        ([S, C], R),
        ([C, C], C),
        ([C, K], C),
        ([F, R], R),
        ([F, C], F),
        ([I, C], F),
    ],
)
def test_a_whole_runs_until_all_of_it_has_ended(mode, states, expected):
    nodes = {f"t{i}": Node(state) for i, state in enumerate(states)}
    assert group_state(nodes, mode) is expected


@pytest.mark.parametrize("mode", JOBS)
def test_the_first_failure_of_a_job_stops_what_runs_and_skips_what_waits(mode):
    nodes = {"a": Node(F, name="load"), "b": Node(R), "c": Node(P), "d": Node(P, ("b",)), "e": Node(C)}
    reason = "the job ended with load, which failed"
    assert advance(nodes, mode) == Plan(skip=(("c", reason), ("d", reason)), stop=("b",))


def test_a_failure_in_a_workflow_concerns_only_what_depends_on_it():
    nodes = {"a": Node(F), "b": Node(R), "c": Node(P, ("a",)), "d": Node(P, ("b",)), "e": Node(P)}
    assert advance(nodes, Mode.WORKFLOW, begin=True) == Plan(
        start=("e",), skip=(("c", "it depends on a, which failed"),)
    )


def test_a_handler_waits_for_all_its_parents_and_is_skipped_when_none_failed():
    nodes = {"a": Node(F), "b": Node(R), "c": Node(P, ("a", "b"), "failure")}
    assert advance(nodes, Mode.WORKFLOW) == Plan()
    assert advance(with_states(nodes, b=C), Mode.WORKFLOW).start == ("c",)
    assert advance(with_states(nodes, a=C, b=I), Mode.WORKFLOW).skip == (
        ("c", "it runs only if one of these fails, and none did: a, b"),
    )


def test_a_job_runs_what_was_declared_for_its_failure_and_what_follows():
    nodes = {
        "a": Node(F),
        "b": Node(P),
        "c": Node(P, ("a",), "failure"),
        "d": Node(P, ("c",)),
        "e": Node(P, ("d", "b")),
    }
    for mode in JOBS:
        plan = advance(nodes, mode)
        assert plan.start == ("c",)
        assert [i for i, _ in plan.skip] == ["b", "e"]
        assert advance(with_states(nodes, b=K, c=C, e=K), mode).start == ("d",)


def test_nothing_may_follow_what_never_ends_in_a_sequential_job():
    tasks = [Declared("1", "a"), Declared("2", "serve", endless="latent")]
    assert resolve(tasks, Mode.SEQUENTIAL) == {"1": (), "2": ()}
    assert resolve(tasks[::-1], Mode.PARALLEL) == {"2": (), "1": ()}
    with pytest.raises(InvalidRequestError, match=r"task .serve.: field latent: .* .a. waits for its end"):
        resolve(tasks[::-1], Mode.SEQUENTIAL)


def test_a_chain_of_thousands_is_checked_for_cycles_at_once():
    names = [str(i) for i in range(10_000)]
    chain = [Declared(f"id-{i}", i, (names[n - 1],) if n else ()) for n, i in enumerate(names)]
    assert list(resolve(chain[::-1], Mode.WORKFLOW))[-1] == "id-0"
    with pytest.raises(InvalidRequestError, match="wait for each other"):
        resolve([Declared("id-0", "0", (names[-1],)), *chain[1:]], Mode.WORKFLOW)


def test_parents_are_named_by_id_or_by_name():
    tasks = [Declared("1", "a"), Declared("2", "b", ("a", "1")), Declared("3", "1", ("b",))]
    assert resolve(tasks, Mode.WORKFLOW) == {"1": (), "2": ("1",), "3": ("2",)}


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([Declared("1", "a"), Declared("1", "b")], "the id 1 is given twice"),
        ([Declared("1", "a", ("z",))], "task 'a': field depends_on: there is no task 'z'"),
        ([Declared("1", "a", ("a",))], "it depends on itself"),
        ([Declared("1", "a"), Declared("2", "a"), Declared("3", "b", ("a",))], "2 tasks are named 'a'"),
        ([Declared("1", "a", (), "failure")], "field run_if: failure needs a task"),
        (
            [Declared("1", "a", endless="daemon"), Declared("2", "b", ("a",))],
            "task 'a': field daemon: it would run until it is stopped, and 'b' waits for its end",
        ),
        (
            [Declared("1", "a", ("b",)), Declared("2", "b", ("a",)), Declared("3", "c", ("b",))],
            "the tasks wait for each other: a → b → a",
        ),
        (
            [Declared("1", "a", ("3",)), Declared("2", "b", ("1",)), Declared("3", "a", ("b",))],
            "the tasks wait for each other: 1 → b → 3 → 1",
        ),
    ],
)
def test_what_cannot_be_ordered_is_refused_by_name(tasks, sentence):
    with pytest.raises(InvalidRequestError) as caught:
        resolve(tasks, Mode.WORKFLOW)
    assert sentence in caught.value.sentence


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"), max_size=3), min_size=1))
def test_exactly_what_has_a_cycle_is_refused_and_the_cycle_is_one(declared):
    declared = {i: parents & (declared.keys() - {i}) for i, parents in declared.items()}
    tasks = [Declared(i, i, tuple(sorted(parents))) for i, parents in declared.items()]
    try:
        order(resolve(tasks, Mode.WORKFLOW))
    except InvalidRequestError as error:
        path = error.sentence.rpartition(": ")[2].split(" → ")
        assert len(path) > 2
        assert path[0] == path[-1]
        assert len(set(path)) == len(path) - 1
        assert all(parent in declared[child] for parent, child in pairwise(path))
    else:
        left = {i: set(parents) for i, parents in declared.items()}
        while free := [i for i, parents in left.items() if not parents & left.keys()]:
            for i in free:
                del left[i]
        assert not left
