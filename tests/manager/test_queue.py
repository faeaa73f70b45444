import time
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from manager.work.placement import Requirements
from manager.work.queue import WaitingQueue

PROPLETS = ["p1", "p2", "p3"]

requirements = st.builds(
    Requirements,
    selector=st.sampled_from([(), (("gpu", "true"),)]),
    pinned=st.sampled_from([None, None, *PROPLETS]),
    digest=st.sampled_from([None, "sha256:1", "sha256:2"]),
)
keys = st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 2))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("push"), keys, requirements, st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0])),
        st.tuples(st.just("remove"), keys),
        st.tuples(st.just("reprioritise"), keys, st.integers(0, 3)),
    ),
    max_size=30,
)


class Model:
    """The same, by looking at everything each time."""

    def __init__(self):
        self.entries = {}
        self.pushes = 0

    def apply(self, operation):
        kind, key, *rest = operation
        self.pushes += 1
        if kind == "push":
            wanted, priority, created_at = rest
            self.entries[key] = (-priority, created_at, self.pushes, wanted)
            return True
        if key not in self.entries:
            return False
        if kind == "remove":
            del self.entries[key]
        else:
            _, created_at, _, wanted = self.entries[key]
            self.entries[key] = (-rest[0], created_at, self.pushes, wanted)
        return True

    def ordered(self):
        return sorted(self.entries, key=lambda key: self.entries[key][:3])

    def place(self, rooms, fits):
        """Whoever is placed, and where, when everybody is asked in order."""
        placed = []
        for key in self.ordered():
            wanted = self.entries[key][3]
            for proplet in sorted(rooms):
                if rooms[proplet] and wanted.pinned in {None, proplet} and fits(wanted, proplet):
                    rooms[proplet] -= 1
                    placed.append((key, proplet))
                    del self.entries[key]
                    break
        return placed


def apply(queue, operation):
    kind, key, *rest = operation
    if kind == "push":
        queue.push(key, rest[0], priority=rest[1], created_at=rest[2])
        return True
    return queue.remove(key) if kind == "remove" else queue.reprioritise(key, rest[0])


def place(queue, rooms, fits):
    placed, left = [], {proplet for proplet, room in rooms.items() if room}
    asked = 0
    for entry in queue.heads(left):
        asked += 1
        wanted = entry.requirements
        for proplet in sorted(left):
            if wanted.pinned in {None, proplet} and fits(wanted, proplet):
                rooms[proplet] -= 1
                placed.append((entry.key, proplet))
                queue.remove(entry.key)
                if not rooms[proplet]:
                    left.discard(proplet)
                break
    return placed, asked


@given(operations, st.dictionaries(st.sampled_from(PROPLETS), st.integers(0, 3)), st.sets(st.sampled_from(PROPLETS)))
def test_it_places_whom_asking_everybody_in_order_would_place(done, rooms, gpus):
    queue, model = WaitingQueue(), Model()
    for operation in done:
        assert apply(queue, operation) == model.apply(operation)
        assert [entry.key for entry in queue] == model.ordered()
        assert len(queue) == len(model.entries)
        for place_, key in enumerate(model.ordered(), 1):
            assert queue.position(key) == place_
            assert key in queue

    def fits(wanted, proplet):
        return not wanted.selector or proplet in gpus

    placed, asked = place(queue, dict(rooms), fits)
    assert placed == model.place(dict(rooms), fits)
    assert [entry.key for entry in queue] == model.ordered()
    assert asked <= len(placed) + 2 * (1 + len(PROPLETS)), "each constraint is asked in vain at most once"


def test_the_higher_priority_goes_first_then_the_older_then_the_one_put_in_first():
    queue = WaitingQueue()
    for name, priority, created_at in [("young", 50, 2.0), ("old", 50, 1.0), ("twin", 50, 1.0), ("urgent", 90, 3.0)]:
        queue.push((name, 1), Requirements(), priority=priority, created_at=created_at)
    assert [entry.key[0] for entry in queue] == ["urgent", "old", "twin", "young"]
    queue.reprioritise(("young", 1), 100)
    assert queue.position(("young", 1)) == 1
    assert queue.position(("unknown", 1)) is None


def test_one_that_waits_for_a_full_proplet_holds_nobody_up():
    queue = WaitingQueue()
    queue.push(("pinned", 1), Requirements(pinned="p1"), priority=90, created_at=0)
    queue.push(("any", 1), Requirements(), priority=10, created_at=0)
    assert [entry.key[0] for entry in queue.heads({"p2"})] == ["any"]
    assert [entry.key[0] for entry in queue.heads({"p1"})] == ["pinned", "any"]
    assert list(queue.heads(set())) == []


def test_those_that_wait_for_one_proplet_follow_each_other_until_it_is_full():
    queue = WaitingQueue()
    for i in range(4):
        queue.push((f"t{i}", 1), Requirements(pinned="p1", memory_bytes=i % 2), priority=50, created_at=i)
    queue.push(("other", 1), Requirements(pinned="p2"), priority=10, created_at=0)
    left, asked = {"p1", "p2"}, []
    for entry in queue.heads(left):
        asked.append(entry.key[0])
        queue.remove(entry.key)
        if len(asked) == 3:
            left.discard("p1")
    assert asked == ["t0", "t1", "t2", "other"]
    assert [entry.key[0] for entry in queue] == ["t3"]


def test_a_proplet_that_others_have_filled_is_asked_for_no_more():
    queue = WaitingQueue()
    queue.push(("any", 1), Requirements(), priority=90, created_at=0)
    queue.push(("pinned", 1), Requirements(pinned="p1"), priority=50, created_at=0)
    queue.push(("later", 1), Requirements(encrypted=True), priority=10, created_at=0)
    left, asked = {"p1", "p2"}, []
    for entry in queue.heads(left):
        asked.append(entry.key[0])
        left.discard("p1")
    assert asked == ["any", "later"]


def per_freed_slot(waiting, slots=200):
    """Seconds that it takes to find and place the next for one free slot, the median of ``slots`` times."""
    queue = WaitingQueue()
    for i in range(waiting):
        wanted = Requirements(
            selector=(("gpu", "true"),) if i % 2 else (),
            pinned=f"p{i % 997}" if i % 10 == 0 else None,
            digest=f"sha256:{i}",
        )
        queue.push((f"t{i}", 1), wanted, priority=i % 101, created_at=i)
    took = []
    for i in range(slots):
        begun = time.perf_counter()
        for entry in islice(queue.heads({f"p{i}"}), 1):
            queue.remove(entry.key)
        took.append(time.perf_counter() - begun)
    return sorted(took)[slots // 2]


def test_a_freed_slot_costs_no_scan_of_what_waits():
    few, many = per_freed_slot(1_000), per_freed_slot(30_000)
    print(f"{few * 1e6:.0f} µs with 1,000 waiting, {many * 1e6:.0f} µs with 30,000")
    assert many < 20 * few
