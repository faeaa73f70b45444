from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.plans.schedules import LATE_S, Due, due, next_run
from swashplate.errors import InvalidRequestError

BERLIN = "Europe/Berlin"
# Around changes of the clock of an hour, of half an hour, at midnight, and where there are none.
PLACES = {
    BERLIN: ["2026-03-29T00:10", "2026-10-25T00:00"],
    "America/New_York": ["2026-03-08T06:40", "2026-11-01T05:20"],
    "Australia/Lord_Howe": ["2026-04-04T14:20", "2026-10-03T15:10"],
    "Africa/Cairo": ["2026-04-23T21:30", "2026-10-29T20:20"],
    "America/Havana": ["2026-03-08T04:30", "2026-11-01T04:10"],
    "UTC": ["2026-02-28T23:00"],
    "Asia/Kolkata": ["2026-02-28T17:00"],
}


def local(zone, text, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def shown(zone, when):
    moment = datetime.fromtimestamp(when, ZoneInfo(zone))
    return moment.isoformat(timespec="minutes")


def firings(expression, zone, after, count):
    found = [after]
    for _ in range(count):
        found.append(next_run(expression, zone, found[-1]))
    return [shown(zone, when) for when in found[1:]]


def matches(expression, wall):
    return next(CronSim(expression, wall - timedelta(seconds=1))) == wall


def by_looking_at_every_minute(expression, zone, after, minutes):
    """What Debian's cron does, minute by minute."""
    every_hour = expression.split()[0].startswith("*") or expression.split()[1].startswith("*")
    found = []
    begin = int(after) // 60 * 60
    before = datetime.fromtimestamp(begin, ZoneInfo(zone))
    for i in range(1, minutes):
        when = begin + 60 * i
        moment = datetime.fromtimestamp(when, ZoneInfo(zone))
        wall, last = moment.replace(tzinfo=None, fold=0), before.replace(tzinfo=None, fold=0)
        skipped = range(1, int((wall - last).total_seconds() // 60))
        hit = matches(expression, wall)
        if not every_hour:
            hit = (hit and not moment.fold) or any(matches(expression, last + timedelta(minutes=n)) for n in skipped)
        if hit and when > after:
            found.append(when)
        before = moment
    return found


@st.composite
def fields(draw):
    def field(low, high):
        number = st.integers(low, high).map(str)
        pair = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
        return draw(
            st.one_of(
                st.just("*"),
                st.integers(2, 20).map(lambda n: f"*/{n}"),
                number,
                pair.map(lambda p: f"{p[0]}-{p[1]}"),
                pair.map(lambda p: f"{p[0]},{p[1]}"),
            )
        )

    hour = draw(st.sampled_from(["*", "*/2", "0", "1", "2", "3", "0-3", "2,3", "23", "5"]))
    day = draw(st.sampled_from(["*", "*", "1", "8", "24", "25", "29", "1-10", "*/3"]))
    weekday = draw(st.sampled_from(["*", "*", "0", "SUN", "FRI-SAT", "1-5", "7"]))
    return f"{field(0, 59)} {hour} {day} * {weekday}"


@settings(max_examples=60, deadline=None)
@given(
    fields(), st.sampled_from([(zone, text) for zone, texts in PLACES.items() for text in texts]), st.integers(0, 7199)
)
def test_around_a_change_of_the_clock_it_fires_when_debians_cron_would(expression, place, seconds):
    zone, text = place
    after = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() + seconds
    minutes = 60 * 11
    expected = by_looking_at_every_minute(expression, zone, after, minutes)
    when, found = after, []
    while (when := next_run(expression, zone, when)) < int(after) // 60 * 60 + 60 * minutes:
        found.append(when)
    assert [shown(zone, t) for t in found] == [shown(zone, t) for t in expected]


@given(fields(), st.sampled_from(sorted(PLACES)), st.floats(0, 4e9))
def test_the_next_run_is_later_and_on_a_full_minute(expression, zone, after):
    found = next_run(expression, zone, after)
    assert found > after
    assert found % 60 == 0
    assert next_run(expression, zone, found - 1) == found


@given(st.text(alphabet="0123456789*,-/?LW#@ MONabc\0\n²", max_size=20), st.text(max_size=10))
def test_whatever_is_written_either_fires_or_is_refused(expression, zone):
    for where in ("UTC", zone):
        try:
            found = next_run(expression, where, 1.8e9)
        except InvalidRequestError:
            continue
        assert found > 1.8e9


def test_a_daily_run_in_the_hour_that_is_left_out_happens_at_the_jump():
    assert firings("30 2 * * *", BERLIN, local(BERLIN, "2026-03-28T12:00"), 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]


def test_a_daily_run_in_the_repeated_hour_happens_once():
    expected = ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    assert firings("30 2 * * *", BERLIN, local(BERLIN, "2026-10-24T12:00"), 2) == expected
    second_pass = local(BERLIN, "2026-10-25T02:10", fold=1)
    assert firings("30 2 * * *", BERLIN, second_pass, 1) == expected[1:]


def test_a_run_every_half_hour_goes_by_the_clock_on_the_wall():
    assert firings("*/30 * * * *", BERLIN, local(BERLIN, "2026-10-25T02:00"), 4) == [
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:30+01:00",
        "2026-10-25T03:00+01:00",
    ]
    assert firings("*/30 * * * *", BERLIN, local(BERLIN, "2026-03-29T01:00"), 2) == [
        "2026-03-29T01:30+01:00",
        "2026-03-29T03:00+02:00",
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", "2026-01-01T00:01+00:00"),
        ("0 9-17/4 * * mon-fri", "2026-01-01T09:00+00:00"),
        ("15,45 * ? * ?", "2026-01-01T00:15+00:00"),
        ("0 0 * FEB 7", "2026-02-01T00:00+00:00"),
        ("0 0 13 * FRI", "2026-01-02T00:00+00:00"),
        ("0 0 L * *", "2026-01-31T00:00+00:00"),
        ("0 0 * * 1#2", "2026-01-12T00:00+00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00+00:00"),
        ("  5   4 *  * * ", "2026-01-01T04:05+00:00"),
    ],
)
def test_what_an_expression_means(expression, expected):
    assert firings(expression, "UTC", local("UTC", "2026-01-01T00:00"), 1) == [expected]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("", "0 fields instead of five"),
        ("* * * *", "4 fields"),
        ("0 * * * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("60 * * * *", "minute '60'"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day-of-month '0'"),
        ("* * * SMARCH *", "month 'SMARCH'"),
        ("* * * * FRI-MON", "day-of-week 'FRI-MON'"),
        ("*/0 * * * *", "minute '*/0'"),
        ("? * * * *", "minute '?'"),
        ("-1 * * * *", "minute '-1'"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("* * */20 * 1L", "never fires"),
    ],
)
def test_a_wrong_expression_is_refused_by_name(expression, names):
    with pytest.raises(InvalidRequestError, match="field schedule") as caught:
        next_run(expression, "UTC", 1.8e9)
    assert names in caught.value.sentence
    assert caught.value.hint


@pytest.mark.parametrize(
    "zone",
    ["", "garbage", "Europe", "europe/berlin", "../etc/passwd", "Europe/Berlin\0", "localtime", "right/UTC", "x" * 300],
)
def test_what_is_not_a_zone_of_the_database_is_refused_by_name(zone):
    with pytest.raises(InvalidRequestError, match="field timezone") as caught:
        next_run("* * * * *", zone, 1.8e9)
    assert repr(zone) in caught.value.sentence


def test_a_misspelt_zone_is_answered_with_the_likely_one():
    with pytest.raises(InvalidRequestError) as caught:
        next_run("* * * * *", "Europe/berlin", 0)
    assert caught.value.hint == "did you mean Europe/Berlin?"


@given(st.floats(0, 1e10), st.floats(-1e6, 1e6), st.sampled_from(["skip", "run_once"]))
def test_a_firing_is_never_early_and_a_missed_one_goes_by_the_policy(planned, late, policy):
    found = due(planned, planned + late, policy)
    if planned + late < planned:
        assert found is Due.WAIT
    elif planned + late - planned < LATE_S or policy == "run_once":
        assert found is Due.RUN
    else:
        assert found is Due.SKIP
