"""Log files, merged and followed."""

from swashplate.stack.log_files import Follower, merged, time_of

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
