import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.work.placement import Candidate, Requirements, Strategy, choose, explain

GIB = 1 << 30
NAMES = ["p1", "p2", "p3", "p4", "p5"]

requirements = st.builds(
    Requirements,
    selector=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=2, unique_by=lambda p: p[0]
    ).map(tuple),
    memory_bytes=st.sampled_from([0, GIB, 2 * GIB]),
    wasm_features=st.frozensets(st.sampled_from(["simd", "gc"])),
    dataset=st.sampled_from(["", "d1"]),
    pinned=st.sampled_from([None, None, *NAMES]),
    digest=st.sampled_from([None, "sha256:1"]),
    encrypted=st.booleans(),
    avoided=st.frozensets(st.sampled_from(NAMES), max_size=2),
    patient=st.booleans(),
)
fleets = st.lists(
    st.builds(
        Candidate,
        proplet_id=st.sampled_from(NAMES),
        slots=st.integers(0, 3),
        active=st.integers(0, 4),
        last_placed=st.sampled_from([0.0, 1.0, 2.0]),
        labels=st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
        memory_bytes=st.sampled_from([0, GIB, 3 * GIB]),
        memory_reserved=st.sampled_from([0, GIB]),
        wasm_features=st.frozensets(st.sampled_from(["simd", "gc"])),
        datasets=st.frozensets(st.sampled_from(["d1", "d2"])),
        digests=st.frozensets(st.sampled_from(["sha256:1", "sha256:2"])),
        cordoned=st.booleans(),
        alive=st.booleans(),
        legacy=st.booleans(),
        room=st.integers(0, 2),
    ),
    unique_by=lambda c: c.proplet_id,
    max_size=5,
)


def fits(r, c):
    return (
        c.alive
        and not c.cordoned
        and c.room > 0
        and (r.patient or c.active < c.slots)
        and not (r.bounded and c.legacy)
        and r.pinned in {None, c.proplet_id}
        and dict(r.selector).items() <= c.labels.items()
        and (r.memory_bytes == 0 or c.memory_bytes - c.memory_reserved >= r.memory_bytes)
        and r.wasm_features <= c.wasm_features
        and (c.legacy or not r.encrypted)
    )


@given(requirements, fleets, st.sampled_from(Strategy))
def test_somebody_who_fits_is_chosen_exactly_when_there_is_one(wanted, fleet, strategy):
    chosen = choose(wanted, fleet, strategy)
    assert (chosen is None) == (not any(fits(wanted, c) for c in fleet))
    assert chosen is None or any(fits(wanted, c) and c.proplet_id == chosen for c in fleet)


@given(requirements, fleets, st.sampled_from(Strategy))
def test_the_choice_does_not_depend_on_the_order(wanted, fleet, strategy):
    assert choose(wanted, fleet, strategy) == choose(wanted, fleet[::-1], strategy)


@given(requirements, fleets)
def test_nobody_who_fits_and_holds_as_much_is_less_loaded_than_the_chosen(wanted, fleet):
    able = [c for c in fleet if fits(wanted, c)]
    for chosen in [c for c in able if c.proplet_id == choose(wanted, fleet)]:
        if wanted.dataset and wanted.dataset not in chosen.datasets:
            assert not any(wanted.dataset in c.datasets for c in able)
        rivals = [
            c
            for c in able
            if not wanted.dataset or (wanted.dataset in c.datasets) == (wanted.dataset in chosen.datasets)
        ]
        assert chosen.active / max(chosen.slots, 1) == min(c.active / max(c.slots, 1) for c in rivals)


@given(requirements, fleets)
def test_round_robin_takes_the_one_placed_on_longest_ago_whatever_its_load(wanted, fleet):
    able = [c for c in fleet if fits(wanted, c)]
    expected = min(able, key=lambda c: (c.last_placed, c.proplet_id), default=None)
    assert choose(wanted, fleet, Strategy.ROUND_ROBIN) == (expected and expected.proplet_id)


@given(requirements, fleets)
def test_every_proplet_is_counted_in_the_explanation_exactly_when_none_can_be_chosen(wanted, fleet):
    said = explain(wanted, fleet)
    assert ("waits for its turn" in said) == (choose(wanted, fleet) is not None)
    if wanted.pinned is None and fleet and "its turn" not in said:
        first, *more = said.split("; ")
        if len(more) == 0:
            assert first.startswith(f"all {len(fleet)} proplets " if len(fleet) > 1 else "the only proplet ")
        else:
            assert sum(int(part.split(" ")[0]) for part in [first, *more]) == len(fleet)
            assert f" of {len(fleet)} proplets " in first


def test_a_proplet_that_holds_the_dataset_comes_first():
    busy = Candidate("p1", slots=2, active=1, last_placed=9, datasets=frozenset({"a"}))
    idle = Candidate("p2", slots=2)
    assert choose(Requirements(dataset="a"), [busy, idle]) == "p1"
    assert choose(Requirements(), [busy, idle]) == "p2"


def test_a_cached_binary_decides_only_between_equally_loaded_proplets():
    cached = Candidate("p1", active=0, last_placed=9, digests=frozenset({"sha256:1"}))
    other = Candidate("p2", active=0)
    assert choose(Requirements(digest="sha256:1"), [cached, other]) == "p1"
    busy = Candidate("p1", active=1, digests=frozenset({"sha256:1"}))
    assert choose(Requirements(digest="sha256:1"), [busy, other]) == "p2"


def test_equal_load_goes_to_the_one_placed_on_longest_ago():
    assert choose(Requirements(), [Candidate("p1", last_placed=5.0), Candidate("p2", last_placed=4.0)]) == "p2"


def test_unknown_memory_is_enough_only_for_who_requires_none():
    unknown = [Candidate("p1")]
    assert choose(Requirements(), unknown) == "p1"
    assert choose(Requirements(memory_bytes=1), unknown) is None
    assert explain(Requirements(memory_bytes=GIB), unknown) == (
        "the only proplet does not tell how much memory 1 GiB is to come from"
    )


def test_memory_that_others_were_promised_is_not_free():
    half = Candidate("p1", memory_bytes=4 * GIB, memory_reserved=3 * GIB)
    assert choose(Requirements(memory_bytes=GIB), [half]) == "p1"
    assert choose(Requirements(memory_bytes=GIB + 1), [half]) is None


GPU = Requirements(selector=(("gpu", "true"),))
with_gpu = {"gpu": "true"}


@pytest.mark.parametrize(
    ("wanted", "fleet", "said"),
    [
        (Requirements(), [], "no proplet is known yet"),
        (
            GPU,
            [Candidate("a"), Candidate("b", labels={"gpu": "false"}), Candidate("c", labels=with_gpu, room=0)],
            "2 of 3 proplets lack label gpu=true; 1 has no free slot",
        ),
        (
            Requirements(memory_bytes=2 * GIB),
            [
                Candidate("a", memory_bytes=4 * GIB, memory_reserved=GIB * 7 // 2),
                Candidate("b", memory_bytes=4 * GIB, cordoned=True),
            ],
            "1 of 2 proplets is cordoned; 1 has 512 MiB free of the 2 GiB required",
        ),
        (
            Requirements(memory_bytes=2 * GIB),
            [Candidate(n, memory_bytes=4 * GIB, memory_reserved=r * GIB) for n, r in (("a", 3), ("b", 4))],
            "all 2 proplets have at most 1 GiB free of the 2 GiB required",
        ),
        (
            Requirements(memory_bytes=2 * GIB),
            [Candidate("a", memory_bytes=GIB)],
            "the only proplet has less memory than the 2 GiB required",
        ),
        (
            Requirements(wasm_features=frozenset({"gc", "simd"})),
            [Candidate("a", alive=False), Candidate("b", wasm_features=frozenset({"gc", "simd"}), alive=False)],
            "1 of 2 proplets lacks the WASM features gc, simd; 1 is offline",
        ),
        (Requirements(encrypted=True), [Candidate("a")], "the only proplet cannot decrypt images"),
        (
            Requirements(),
            [Candidate("a"), Candidate("b", room=0)],
            "it waits for its turn: 1 of 2 proplets has room",
        ),
        (Requirements(pinned="x"), [Candidate("a")], "proplet x is not known yet"),
        (Requirements(pinned="x"), [Candidate("a"), Candidate("x", alive=False)], "proplet x is offline"),
        (Requirements(pinned="x"), [Candidate("a"), Candidate("x")], "it waits for its turn at proplet x"),
    ],
)
def test_why_it_waits_is_one_sentence(wanted, fleet, said):
    assert explain(wanted, fleet) == said


def test_what_lasts_longest_is_told_first():
    fleet = [
        Candidate("a", memory_bytes=GIB, room=0),
        Candidate("b", memory_bytes=GIB, memory_reserved=GIB // 2),
        Candidate("c", memory_bytes=GIB, cordoned=True, room=0),
        Candidate("d", memory_bytes=GIB, alive=False, cordoned=True),
        Candidate("e", alive=False),
    ]
    assert explain(Requirements(memory_bytes=GIB), fleet) == (
        "1 of 5 proplets does not tell how much memory 1 GiB is to come from; 1 is offline; 1 is cordoned; "
        "1 has 512 MiB free of the 1 GiB required; 1 has no free slot"
    )


def test_attempts_that_differ_in_preferences_alone_have_the_same_constraint():
    assert Requirements(dataset="a", digest="b").constraint == Requirements().constraint
    assert GPU.constraint != Requirements().constraint
    assert hash(GPU) == hash(Requirements(selector=(("gpu", "true"),)))
