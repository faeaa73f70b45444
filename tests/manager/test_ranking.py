import time

from hypothesis import given
from hypothesis import strategies as st

from manager.work import ranking
from manager.work.placement import Candidate, Requirements, Strategy, choose
from manager.work.ranking import Ranking
from tests.manager.test_placement import fleets, requirements


@given(requirements, st.lists(fleets, min_size=1, max_size=3), st.sampled_from(Strategy), st.sampled_from([0, 1, 64]))
def test_it_chooses_as_placement_does_among_all(wanted, reports, strategy, few):
    ranked, known = Ranking(), {}
    ranking.FEW, before = few, ranking.FEW
    try:
        for report in reports:
            for candidate in report:
                known[candidate.proplet_id] = candidate
                if candidate.room > 0:
                    ranked.put(candidate)
                else:
                    ranked.drop(candidate.proplet_id)
            assert ranked.choose(wanted, strategy) == choose(wanted, known.values(), strategy)
            assert ranked.ids == {candidate.proplet_id for candidate in known.values() if candidate.room > 0}
    finally:
        ranking.FEW = before


def test_choosing_among_ten_thousand_looks_at_few_of_them():
    ranked = Ranking()
    for number in range(10_000):
        ranked.put(Candidate(proplet_id=f"p{number}", slots=2, room=2, datasets=frozenset({f"d{number}"})))
    began = time.process_time()
    for number in range(1000):
        chosen = ranked.choose(Requirements(digest="sha256:1"))
        assert chosen is not None
        ranked.put(Candidate(proplet_id=chosen, slots=2, active=1, room=1, last_placed=number))
    assert ranked.choose(Requirements(dataset="d9999")) == "p9999"
    assert time.process_time() - began < 2  # one look at all of them takes 5 ms
