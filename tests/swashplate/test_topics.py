import pytest
from hypothesis import given
from hypothesis import strategies as st

from swashplate.errors import InvalidRequestError
from swashplate.topics import Topics, grants, level, matches, overlap

TOPICS = Topics("d1", "c1")
levels = st.sampled_from(["a", "b", "c"])
concrete = st.lists(levels, min_size=1, max_size=4).map("/".join)
patterns = st.tuples(st.lists(st.sampled_from(["a", "b", "c", "+"]), min_size=1, max_size=4), st.booleans()).map(
    lambda parts: "/".join([*parts[0], *(["#"] if parts[1] else [])])
)


@pytest.mark.parametrize(
    "bad", ["", "a/b", "a+b", "#", "a b", "a\nb", "a\0b", "a.b", "*", ">", "$SYS", "\ud800", "x" * 257]
)
def test_a_level_from_outside_cannot_change_the_topic(bad):
    with pytest.raises(InvalidRequestError) as caught:
        level(bad, "round id")
    assert "round id" in caught.value.sentence


@pytest.mark.parametrize(
    "good", ["3fe95a65-74f1-4ede-bf20-ef565f04cecb", "r-1769015984", "proplet-1", "übung", "a_b:c"]
)
def test_ordinary_ids_are_levels(good):
    assert level(good) == good


@given(patterns, patterns, concrete)
def test_two_patterns_that_share_a_topic_overlap(one, other, topic):
    if matches(one, topic) and matches(other, topic):
        assert overlap(one, other)
        assert overlap(other, one)


@given(concrete)
def test_a_topic_matches_itself_and_everything(topic):
    assert matches(topic, topic)
    assert matches("#", topic)
    assert matches(f"{topic}/#", topic)


def test_wildcards_do_not_reach_the_brokers_own_topics():
    assert not matches("#", "$SYS/broker")
    assert not matches("+/broker", "$SYS/broker")


def allowed(filters, topic):
    return any(matches(pattern, topic) for pattern in filters)


def test_a_proplet_may_speak_only_for_itself():
    mine = grants(TOPICS, "proplet", "p1")
    assert allowed(mine.publish, TOPICS.proplet("p1", "results"))
    assert not allowed(mine.publish, TOPICS.proplet("p2", "results"))
    assert not allowed(mine.publish, TOPICS.to_proplet("p1", "start"))
    assert not allowed(mine.publish, TOPICS.chunk("0" * 64, 0))
    assert not allowed(mine.subscribe, TOPICS.to_proplet("p2", "start"))
    assert allowed(mine.subscribe, TOPICS.to_proplet("p1", "start"))


@pytest.mark.parametrize("role", ["manager", "proplet", "proxy", "coordinator"])
def test_every_role_has_an_access_list(role):
    assert grants(TOPICS, role, "x").subscribe


def test_an_unknown_role_has_none():
    with pytest.raises(ValueError, match="no access list"):
        grants(TOPICS, "stranger", "x")
