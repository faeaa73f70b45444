"""Log files, merged and followed."""

from pathlib import Path

from swashplate.stack.log_files import Follower, files, merged, time_of
from swashplate.stack.rotation import RotatedLog, put_aside

OURS = '{"time": "2026-11-22T06:08:52.8226Z", "level": "INFO", "msg": "b"}'


def test_lines_of_several_services_come_in_the_order_of_their_times_and_a_traceback_stays_whole():
    one = ['{"time": "2026-01-01T00:00:01Z"}', "Traceback", "  of it", '{"time": "2026-01-01T00:00:04Z"}']
    two = ["no time yet", '{"time": "2026-01-01T00:00:02.5Z"}', '{"time": "2026-01-01T00:00:03Z"}']
    assert [line for _, line in merged({"one": one, "two": two})] == [two[0], *one[:3], *two[1:], one[3]]


def test_the_times_of_the_brokers_compare_with_ours():
    assert time_of(OURS) == "2026-11-22T06:08:52.8226"
    assert time_of("[7] 2026/11/22 06:08:52.864793 [ERR] x")[:4] == "2026"
    assert time_of("1795327732: mosquitto version 2.0.11 starting") == "2026-11-22T06:08:52"
    assert time_of("Traceback") == ""


def test_a_file_is_followed_line_by_line_over_its_replacement_and_its_truncation(tmp_path):
    path = tmp_path / "x.log"
    follower = Follower(path)
    assert list(follower.fresh()) == []
    with path.open("a") as file:
        file.write("1\n2")
        file.flush()
        assert list(follower.fresh()) == ["1"]
        file.write("2\n")
    assert list(follower.fresh()) == ["22"]
    with path.open("a") as file:
        file.write("last of the old\n")
    path.rename(tmp_path / "x.log.1")
    path.write_text("first of the new\n")
    assert list(follower.fresh()) == ["last of the old", "first of the new"]
    path.write_text("cut\n")
    assert list(follower.fresh()) == ["cut"]
    assert list(follower.fresh()) == []


def test_only_the_tail_and_then_what_comes(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("1\n2\n3\n")
    follower = Follower(path)
    assert list(follower.history(2)) == ["2", "3"]
    with path.open("a") as file:
        file.write("4\n")
    assert list(follower.fresh()) == ["4"]
    assert list(Follower(path).history(0)) == []


def test_what_was_rotated_away_is_read_too_and_nothing_is_lost_to_who_follows(tmp_path):
    path = tmp_path / "x.log"
    log = RotatedLog(path, largest=100)
    follower = Follower(path)
    read = []
    for n in range(60):
        log.write(b"line %03d\n" % n)
        if n % 5 == 0:
            read += follower.fresh()
    lines = [f"line {n:03}" for n in range(60)]
    assert [*read, *follower.fresh()] == lines
    kept = list(Follower(path).history(None))
    assert kept == lines[-len(kept) :]
    assert len(kept) > 44
    assert list(Follower(path).history(20)) == lines[-20:]
    assert {each.name for each in tmp_path.iterdir()} == {"x.log", *(f"x.log.{n}" for n in range(1, 5))}
    assert all(each.stat().st_size <= 100 for each in tmp_path.iterdir())


class Busy(type(Path())):
    """Before it is looked at, a line more is written, and the file is rotated."""

    def stat(self, **options):
        plain = Path(self)
        if not plain.with_name("x.log.1").exists():
            with plain.open("a") as file:
                file.write("just before\n")
            plain.rename(plain.with_name("x.log.1"))
            plain.write_text("just after\n")
        return plain.stat(**options)


def test_what_is_written_between_a_look_and_the_rotation_is_read(tmp_path):
    (tmp_path / "x.log").write_text("first\n")
    assert list(Follower(Busy(tmp_path / "x.log")).history(None)) == ["first", "just before", "just after"]


def test_a_log_goes_on_where_it_ended_and_a_line_longer_than_a_file_is_cut(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(b"before\n")
    log = RotatedLog(path, largest=10)
    for text in (b"half of", b" a line\nnext\n", b"x" * 25, b"y\n"):
        log.write(text)
    log.close()
    assert list(Follower(path).history(None)) == ["before", "half of a line", "next", "x" * 25 + "y"]
    assert path.read_bytes() == b"x" * 25 + b"y\n"


def test_a_log_that_is_put_aside_is_not_read_any_more_and_kept_once(tmp_path):
    path = tmp_path / "x.log"
    for text in ("1", "2", "3"):
        path.write_text(f"{text}\n")
        path.with_name("x.log.1").write_text(f"before {text}\n")
        put_aside(path)
    assert files(tmp_path) == {}
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"x.old": "3\n", "x.old.1": "before 3\n"}
