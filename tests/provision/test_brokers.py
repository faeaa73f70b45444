from __future__ import annotations

import stat
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.brokers import Kind, Place, User, broker_files, hashed, nats, write_broker_files
from provision.brokers.nats import subjects
from provision.credentials import complete
from provision.identity import access
from provision.identity.records import Records
from provision.identity.seeding import seed
from swashplate import topics as topic_names
from swashplate.errors import InvalidRequestError
from swashplate.topics import Grants, matches

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


def users(env: dict[str, str] | None = None, **options: bool) -> list[User]:
    records = Records()
    seed(records, complete(env or {}, 1), "")
    return access.users(records, **options)


def test_nothing_of_the_brokers_own_is_granted(tmp_path, kind):
    for text in broker_files(Kind(kind), users(legacy=True), Place(tmp_path)).values():
        assert not any(own in text.replace("$7$", "") for own in ("$MQTT", "$JS", "$SYS", "no_auth_user"))


def test_no_file_of_a_broker_holds_a_key(tmp_path, kind):
    credentials = complete({}, 2)
    records = Records()
    seed(records, credentials, "")
    text = "".join(broker_files(Kind(kind), access.users(records), Place(tmp_path)).values())
    assert all(client.id in text for client in credentials.clients)
    assert not any(client.key in text for client in credentials.clients)


def test_the_files_are_private_and_written_only_when_they_change(tmp_path, kind):
    place, found = Place(tmp_path / "new" / "broker"), users()
    assert write_broker_files(Kind(kind), found, place) is True
    paths = [path for path in place.folder.iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    for path in paths:
        path.chmod(0o644)
    assert write_broker_files(Kind(kind), found, place) is False
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert write_broker_files(Kind(kind), found[1:], place) is True
    assert not any(found[0].id.encode() in path.read_bytes() for path in paths)
    assert sorted(path for path in place.folder.iterdir() if path.is_file()) == sorted(paths)


@pytest.mark.parametrize("label", ["a\nuser root\ntopic #", 'x"\n}', "päss"])
def test_a_name_stays_a_comment(tmp_path, kind, label):
    user = replace(users()[0], label=label)
    for text in broker_files(Kind(kind), [user], Place(tmp_path)).values():
        assert not any(line.strip() in {"user root", "topic #", "}"} and label in text for line in text.splitlines())


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "x" * 73])
def test_what_cannot_be_a_key_is_refused(key):
    with pytest.raises(InvalidRequestError):
        hashed(key)


def test_a_hashed_key_is_known_again_and_no_other():
    found = hashed("secret")
    assert found.matches("secret")
    assert not found.matches("Secret")
    assert hashed("secret") != found


def test_no_id_that_a_client_can_have_is_the_one_of_nobody(tmp_path, nats_server):
    config = tmp_path / nats.CONFIG
    config.write_text(nats.config([User("-", "a dash", hashed("key"), Grants((), ()))], Place(tmp_path)))
    checked = subprocess.run([nats_server, "-t", "-c", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with pytest.raises(InvalidRequestError):
        topic_names.level(nats.NOBODY)
