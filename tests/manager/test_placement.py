from hypothesis import given
from hypothesis import strategies as st

from manager.placement import Candidate, choose

candidates = st.lists(
    st.builds(
        Candidate,
        proplet_id=st.uuids().map(str),
        slots=st.integers(0, 4),
        active=st.integers(0, 8),
        last_placed=st.floats(0, 100),
        datasets=st.frozensets(st.sampled_from(["a", "b"])),
    ),
    max_size=6,
)


@given(candidates)
def test_the_choice_does_not_depend_on_the_order(found):
    assert choose(found) == choose(list(reversed(found)))


@given(candidates)
def test_nobody_chosen_is_busier_than_another(found):
    chosen = choose(found)
    if chosen is None:
        assert not found
    else:
        load = {c.proplet_id: c.active / max(c.slots, 1) for c in found}
        assert load[chosen] == min(load.values())


def test_a_proplet_that_holds_the_dataset_comes_first():
    busy = Candidate("p1", slots=1, active=5, last_placed=9, datasets=frozenset({"a"}))
    idle = Candidate("p2", slots=1, active=0, last_placed=0)
    assert choose([busy, idle], dataset="a") == "p1"
    assert choose([busy, idle]) == "p2"


def test_equal_load_goes_to_the_one_placed_on_longest_ago():
    assert choose([Candidate("p1", 1, 0, 5.0), Candidate("p2", 1, 0, 4.0)]) == "p2"
