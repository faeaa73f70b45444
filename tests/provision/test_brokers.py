from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.brokers import nats_config, subjects, write_nats_config
from provision.credentials import complete
from swashplate.errors import ConfigurationError
from swashplate.topics import matches

level = st.sampled_from(["a", "b", "m"])
filters = st.builds(
    lambda parts, rest: "/".join([*parts, *rest]),
    st.lists(level | st.just("+"), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
)
topics = st.lists(level, min_size=1, max_size=6).map("/".join)


def nats_matches(subject: str, name: str) -> bool:
    want, have = subject.split("."), name.split(".")
    if want[-1] == ">":
        want = want[:-1] + ["*"] * max(1, len(have) - len(want) + 1)
    return len(want) == len(have) and all(w in {"*", h} for w, h in zip(want, have, strict=True))


@given(filters, topics)
def test_the_subjects_of_a_filter_match_exactly_what_the_filter_matches(topic_filter, topic):
    granted = any(nats_matches(subject, topic.replace("/", ".")) for subject in subjects(topic_filter))
    assert granted == matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "names"),
    [("a/b", ("a.b",)), ("a/+/b", ("a.*.b",)), ("a/#", ("a", "a.>")), ("#", (">",)), ("+", ("*",))],
)
def test_subjects(topic_filter, names):
    assert subjects(topic_filter) == names


def config(env: dict[str, str], **options: object) -> str:
    found = complete(env, 1)
    return nats_config(found.topics, found, host="127.0.0.1", port=1883, store_dir=Path("/store"), **options)


def test_a_key_that_the_broker_would_take_for_a_hash_is_refused():
    with pytest.raises(ConfigurationError, match="PROXY_CLIENT_KEY"):
        config({"PROXY_CLIENT_KEY": "$2a$11$abcdefghijklmnopqrstuv"})


def test_nothing_of_the_brokers_own_is_granted():
    assert not any(own in config({}, legacy=True) for own in ("$MQTT", "$JS", "$SYS", "no_auth_user"))


def test_the_configuration_is_private_and_written_only_when_it_changes(tmp_path):
    path = tmp_path / "new" / "nats.conf"
    assert write_nats_config(path, "one") is True
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    seen = path.stat().st_mtime_ns
    path.chmod(0o644)
    assert write_nats_config(path, "one") is False
    assert (path.stat().st_mtime_ns, stat.S_IMODE(path.stat().st_mode)) == (seen, 0o600)
    assert write_nats_config(path, "two") is True
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]
