"""The advice on a pool's size is sound, harmless, and keeps passwords to itself."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest

from benchmarks import advise
from benchmarks.advice import Point, Room, judged, sizes
from benchmarks.subjects import BadAddressError, MySQLSubject, RedisSubject, loaded
from tests.servers import MariaDBServer, RedisServer, free_port

SECRET = "s3cr3t-w0rd"

Capture = pytest.CaptureFixture[str]


def curve(**rates: float) -> list[Point]:
    """A curve from ``s8=100.0``: 100 loans a second with 8 connections."""
    return [
        Point(int(name[1:]), rate, 0.01, 1.0 / int(name[1:]), 0.5)
        for name, rate in rates.items()
    ]


# What is suggested


def test_the_smallest_size_that_is_as_good_as_the_best_is_suggested() -> None:
    """Within a twentieth of the best, fewer connections win."""
    given = judged(curve(s1=50, s4=96, s8=100, s16=99), Room(), 100)
    assert given.size == 4
    assert "96 loans/s" in given.reasons[0] and "with 8" in given.reasons[0]


def test_a_wait_that_is_too_long_speaks_for_more() -> None:
    """Of those as good as the best, one that keeps the wait below the limit."""
    points = curve(s4=96, s8=100, s16=99)
    assert judged(points, Room(), 100, wait=0.1).size == 16
    given = judged(points, Room(), 100, wait=0.001)
    assert given.size == 4 and "No size" in given.reasons[1]


def test_the_servers_places_are_divided_among_the_processes() -> None:
    """All processes together stay below what is free, with a tenth left to others."""
    given = judged(curve(s4=50, s16=100), Room(100, 50), 100, processes=9)
    assert given.size == 5 and given.size * 9 <= 45
    assert "9 processes with 16 would need 144" in given.reasons[-1]
    assert judged(curve(s4=100), Room(2, 2), 100).size == 1


def test_it_says_what_more_connections_would_do() -> None:
    """No process time left, everyone served, a limit reached, or a full house."""

    def said(size: int, **more: Any) -> str:
        chosen = Point(size, 100.0, 0.0, 0.0, **{"cpu": 0.5, **more})
        last = Point(50, 101.0, 0.0, 0.0, 0.5)
        points = [last] if size == 50 else [chosen, last]
        return judged(points, Room(), 80, bound="--limit").reasons[1]

    assert "this process runs 95%" in said(8, cpu=0.95)
    assert "longer than it should" in said(8, late=0.1)
    assert "the server or the way to it" in said(8)
    assert "largest size that was tried because of --limit" in said(50)
    every = judged([Point(80, 1.0, 0.0, 0.0, 0.1)], Room(), 80).reasons[1]
    assert "nobody ever waits" in every


def test_the_sizes_reach_from_one_to_the_most() -> None:
    """Each once, both ends included, no more than there is time for."""
    assert sizes(1, 10) == [1]
    assert sizes(100, 5)[0] == 1 and sizes(100, 5)[-1] == 100
    for most in (0, 3, 7, 50):
        tried = sizes(100, most)
        assert tried == sorted(set(tried)) and len(tried) <= max(3, most)


# What is refused


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--greenlets", "0"], "--greenlets: must be a whole number from 1, not '0'"),
        (["--greenlets", "9", "--hold", "-1"], "--hold: must be a number of seconds"),
        (["--greenlets", "9", "--hold", "nan"], "--hold: must be a number of seconds"),
        (["--greenlets", "9", "--hold", "3"], "--hold must be at most"),
        (["--greenlets", "9", "--hold", "0", "--seconds", "1"], "--seconds must be"),
        (["--greenlets", "9", "--hold", "0", "--mysql", "x"], "not allowed with"),
        (["--hold", "0"], "--greenlets"),
    ],
)
def test_a_bad_argument_is_named_with_its_rule(
    arguments: list[str], words: str, capsys: Capture
) -> None:
    """Exit status 2, and nothing was asked."""
    assert advise.main(["--redis", "redis://127.0.0.1:1", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, url",
    [
        ("--redis", f"http://u:{SECRET}@127.0.0.1"),
        ("--redis", f"redis://u:{SECRET}"),
        ("--redis", f"redis://u:x/{SECRET}@127.0.0.1:1"),
        ("--mysql", f"postgres://u:{SECRET}@127.0.0.1"),
        ("--mysql", f"mysql://u:{SECRET}"),
        ("--mysql", f"mysql://u:{SECRET}@127.0.0.1/d?nonsense=1"),
    ],
)
def test_a_bad_address_is_refused_without_its_password(
    option: str, url: str, capsys: Capture
) -> None:
    """The option is named, and what it should look like."""
    assert advise.main([option, url, "--greenlets", "5", "--hold", "0"]) == 2
    said = "".join(capsys.readouterr())
    assert option in said and SECRET not in said


@pytest.mark.parametrize("scheme", ["redis", "mysql"])
def test_a_server_that_is_not_there_is_told_of(scheme: str, capsys: Capture) -> None:
    """Exit status 1 with the driver's reason; neither traceback nor password."""
    url = f"{scheme}://u:{SECRET}@127.0.0.1:{free_port()}"
    assert advise.main([f"--{scheme}", url, "--greenlets", "5", "--hold", "0"]) == 1
    said = "".join(capsys.readouterr())
    assert "efused" in said and SECRET not in said and "Traceback" not in said


# The real thing


def asked(capsys: Capture, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON that was printed, and the rest."""
    options = ("--greenlets", "6", "--hold", "0.001", "--seconds", "2", "--json")
    assert advise.main([*arguments, *options]) == 0
    done = capsys.readouterr()
    return json.loads(done.out), done.err


def test_a_redis_is_measured_within_its_bounds(capsys: Capture) -> None:
    """It counts no more connections than half of what was free, and no password."""
    with RedisServer("--requirepass", SECRET, "--maxclients", "8") as server:
        url = f"redis://:{SECRET}@{server.host}:{server.port}/0"
        most = 0

        def watch() -> None:
            nonlocal most
            while True:
                most = max(most, server.sockets())
                gevent.sleep(0.02)

        watcher = gevent.spawn(watch)
        given, told = asked(capsys, "--redis", url)
        watcher.kill()
        assert server.connected_clients() == 0
    assert given["maximum"] == 8 and given["tried_up_to"] == 4 and 1 <= most <= 4
    assert [point["size"] for point in given["curve"]] == [1, 2, 3, 4]
    assert 1 <= given["max_connections"] <= 4 and given["round_trip"] > 0
    assert "PING" in told and SECRET not in told + json.dumps(given)


def test_a_mariadb_is_measured_and_a_wrong_password_is_told(
    mariadb_server: MariaDBServer, capsys: Capture
) -> None:
    """The curve is shown with a bar for each size and the suggestion marked."""
    url = mariadb_server.url.replace("+pymysql", "")
    options = ["--greenlets", "3", "--hold", "0.002", "--seconds", "2"]
    assert advise.main(["--mysql", url, *options, "--processes", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("Suggested: max_connections=", "█ <", "2 processes with", "SELECT 1"):
        assert words in shown
    wrong = url.replace(f":{mariadb_server.password}@", f":{SECRET}@")
    assert advise.main(["--mysql", wrong, *options]) == 1
    said = "".join(capsys.readouterr())
    assert "Access denied" in said and SECRET not in said


def test_a_server_without_room_is_left_alone(capsys: Capture) -> None:
    """Where others use nearly all places, nothing is measured."""
    with RedisServer("--maxclients", "3") as server:
        others = [server.admin() for _ in range(2)]
        for other in others:
            other.ping()
        options = ["--greenlets", "3", "--hold", "0.002"]
        assert advise.main(["--redis", server.url, *options]) == 1
        for other in others:
            other.close()
    assert "no room to measure in" in capsys.readouterr().err


def test_a_failing_loan_ends_the_measurement(redis_server: RedisServer) -> None:
    """An error in the crowd is the measurement's own, and told once."""

    class Broken(RedisSubject):
        def ask(self, conn: Any) -> None:
            raise ConnectionError("gone")

    subject = Broken(redis_server.url)
    with pytest.raises(ConnectionError, match="gone"):
        loaded(subject, 1, 2, 0.0, 0.05)
    subject.close()


def test_a_server_that_hides_its_limit_is_no_obstacle(
    redis_server: RedisServer,
) -> None:
    """An account that may not ask INFO gets advice without the server's limit."""
    rules = ("on", ">pass", "+@connection")
    redis_server.ask("ACL", "SETUSER", "plain", *rules)
    try:
        where = f"{redis_server.host}:{redis_server.port}"
        subject = RedisSubject(f"redis://plain:pass@{where}")
        assert subject.room() == Room()
        subject.close()
    finally:
        redis_server.ask("ACL", "DELUSER", "plain")


def test_an_address_is_shown_without_account() -> None:
    """Host and port are enough to know which server is meant."""
    redis = RedisSubject(f"redis://user:{SECRET}@127.0.0.1:7/0")
    mysql = MySQLSubject(f"mysql://user:{SECRET}@127.0.0.1:7/db")
    assert redis.place == "Redis at 127.0.0.1:7"
    assert mysql.place == "MySQL at 127.0.0.1:7"
    assert SECRET not in mysql.described(RuntimeError(f"no {SECRET}"))
    with pytest.raises(BadAddressError):
        MySQLSubject("nonsense")
