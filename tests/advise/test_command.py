"""``advise`` measures a server within its bounds and never shows a password."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool.__main__ import main as run
from geventpool.advise import command
from geventpool.advise.load import measure
from geventpool.advise.servers import AddressError, MySQLTarget, RedisTarget
from geventpool.advise.sizing import Capacity
from tests.pauses import hang, sample
from tests.servers import MariaDBServer, RedisServer, free_port

SECRET = "s3cr3t-w0rd"

Capture = pytest.CaptureFixture[str]


def advise(*arguments: str) -> int:
    """The exit status of the command."""
    return run(["advise", *arguments])


# The command line


def test_the_commands_are_listed_where_none_is_named(capsys: Capture) -> None:
    """Exit status 2 for a typo, 0 for the help, and both name what there is."""
    assert run([]) == 2
    assert run(["advice"]) == 2
    assert "advise" in capsys.readouterr().err
    assert run(["--help"]) == 0
    assert "suggest a pool size" in capsys.readouterr().out
    assert advise("--help") == 0
    assert "--greenlets N" in capsys.readouterr().out


def main_module() -> Path:
    return Path(command.__file__).parents[1] / "__main__.py"


def test_the_package_is_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """``python -m geventpool`` runs it and exits with its status."""
    monkeypatch.setattr(sys, "argv", ["geventpool", "advise", "--hold", "0"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(main_module()), run_name="__main__")
    assert ended.value.code == 2
    assert "--redis" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["redis", "mysql"])
def test_a_missing_driver_is_named_with_the_way_to_install_it(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The package works from the wheel without any driver until one is needed."""

    def absent(url: str) -> Any:
        raise ImportError("No module named 'driver'")

    monkeypatch.setitem(command.TARGETS, kind, absent)
    assert advise(f"--{kind}", "x", "--greenlets", "5", "--hold", "0") == 1
    said = capsys.readouterr().err
    assert "No module named 'driver'" in said and f"geventpool[{kind}]" in said


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
    assert advise(*["--redis", "redis://127.0.0.1:1", *arguments]) == 2
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
    assert advise(*[option, url, "--greenlets", "5", "--hold", "0"]) == 2
    said = "".join(capsys.readouterr())
    assert option in said and SECRET not in said


@pytest.mark.parametrize("scheme", ["redis", "mysql"])
def test_a_server_that_is_not_there_is_told_of(scheme: str, capsys: Capture) -> None:
    """Exit status 1 with the driver's reason; neither traceback nor password."""
    url = f"{scheme}://u:{SECRET}@127.0.0.1:{free_port()}"
    assert advise(*[f"--{scheme}", url, "--greenlets", "5", "--hold", "0"]) == 1
    said = "".join(capsys.readouterr())
    assert "efused" in said and SECRET not in said and "Traceback" not in said


# The real thing


def asked(capsys: Capture, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON that was printed, and the rest."""
    options = ("--greenlets", "6", "--hold", "0.001", "--seconds", "2", "--json")
    assert advise(*[*arguments, *options]) == 0
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
                sample()

        watcher = gevent.spawn(watch)
        given, told = asked(capsys, "--redis", url)
        watcher.kill()
        assert server.connected_clients() == 0
    assert given["maximum"] == 8 and given["largest_tried"] == 4 and 1 <= most <= 4
    # A slow machine has no time for the sizes between.
    sizes = [point["size"] for point in given["curve"]]
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (1, 4)
    assert 1 <= given["max_connections"] <= 4 and given["round_trip"] > 0
    assert "PING" in told and SECRET not in told + json.dumps(given)


def test_a_mariadb_is_measured_and_a_wrong_password_is_told(
    mariadb_server: MariaDBServer, capsys: Capture
) -> None:
    """The curve is shown with a bar for each size and the suggestion marked."""
    url = mariadb_server.url.replace("+pymysql", "")
    options = ["--greenlets", "3", "--hold", "0.002", "--seconds", "2"]
    assert advise(*["--mysql", url, *options, "--processes", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("Suggested: max_connections=", "# <", "2 processes with", "SELECT 1"):
        assert words in shown
    wrong = url.replace(f":{mariadb_server.password}@", f":{SECRET}@")
    assert advise(*["--mysql", wrong, *options]) == 1
    said = "".join(capsys.readouterr())
    assert "Access denied" in said and SECRET not in said


def test_a_server_without_room_is_left_alone(capsys: Capture) -> None:
    """Where others use nearly all places, nothing is measured."""
    with RedisServer("--maxclients", "3") as server:
        others = [server.admin() for _ in range(2)]
        for other in others:
            other.ping()
        options = ["--greenlets", "3", "--hold", "0.002"]
        assert advise(*["--redis", server.url, *options]) == 1
        for other in others:
            other.close()
    assert "not enough are free to measure" in capsys.readouterr().err


def test_a_failing_loan_ends_the_measurement(redis_server: RedisServer) -> None:
    """An error in the crowd is the measurement's own, and told once."""

    class Broken(RedisTarget):
        def ask(self, conn: Any) -> None:
            raise ConnectionError("gone")

    target = Broken(redis_server.url)
    with pytest.raises(ConnectionError, match="gone"):
        measure(target, 1, 2, 0.0, 0.05)
    target.close()


def test_a_server_that_hides_its_limit_is_no_obstacle(
    redis_server: RedisServer,
) -> None:
    """An account that may not ask INFO gets advice without the server's limit."""
    rules = ("on", ">pass", "+@connection")
    redis_server.ask("ACL", "SETUSER", "plain", *rules)
    try:
        where = f"{redis_server.host}:{redis_server.port}"
        target = RedisTarget(f"redis://plain:pass@{where}")
        assert target.capacity() == Capacity()
        target.close()
    finally:
        redis_server.ask("ACL", "DELUSER", "plain")


def test_an_address_is_shown_without_account() -> None:
    """Host and port are enough to know which server is meant."""
    redis = RedisTarget(f"redis://user:{SECRET}@127.0.0.1:7/0")
    mysql = MySQLTarget(f"mysql://user:{SECRET}@127.0.0.1:7/db")
    assert redis.place == "Redis at 127.0.0.1:7"
    assert mysql.place == "MySQL at 127.0.0.1:7"
    assert SECRET not in mysql.describe(RuntimeError(f"no {SECRET}"))
    with pytest.raises(AddressError):
        MySQLTarget("nonsense")


def test_advice_needs_no_limit_of_the_server(
    redis_server: RedisServer, capsys: Capture
) -> None:
    """An account that may not ask INFO gets advice, and is told what is unknown."""
    redis_server.ask("ACL", "SETUSER", "plain", "on", ">pass", "+@connection")
    try:
        where = f"{redis_server.host}:{redis_server.port}"
        given, told = asked(capsys, "--redis", f"redis://plain:pass@{where}")
    finally:
        redis_server.ask("ACL", "DELUSER", "plain")
    assert given["maximum"] is None and given["bound"] == "--greenlets"
    assert "does not tell" in told + given["reasons"][-1]


def test_the_limit_of_an_account_counts_where_it_is_lower(
    mariadb_server: MariaDBServer,
) -> None:
    """MAX_USER_CONNECTIONS bounds the pool before the server does."""
    mariadb_server.ask(
        "CREATE USER few IDENTIFIED BY 'pass' WITH MAX_USER_CONNECTIONS 7"
    )
    try:
        where = f"{mariadb_server.host}:{mariadb_server.port}"
        target = MySQLTarget(f"mysql://few:pass@{where}/")
        assert target.capacity() == Capacity(7, 0)
        target.close()
    finally:
        mariadb_server.ask("DROP USER few")


def test_a_server_that_falls_silent_is_given_up(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The command ends by itself, with exit status 1."""
    monkeypatch.setattr(command, "GRACE", -1.99)
    options = ["--greenlets", "3", "--hold", "0", "--seconds", "2"]
    assert advise("--redis", redis_server.url, *options) == 1
    assert "no result after" in capsys.readouterr().err


def test_a_timeout_of_the_caller_is_not_taken_for_ours(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gevent.Timeout around the command reaches its owner."""
    outer = gevent.Timeout(60)

    def interrupted(*args: Any) -> int:
        raise outer

    monkeypatch.setattr(command, "_advise", interrupted)
    with pytest.raises(gevent.Timeout) as raised:
        advise("--redis", redis_server.url, "--greenlets", "3", "--hold", "0")
    assert raised.value is outer


def test_a_size_without_any_loan_is_an_error() -> None:
    """A rate of 0 would lead to no advice; more time may."""

    class Busy:
        def acquire(self) -> Any:
            hang()

        ask = release = acquire  # type: ignore[assignment]

    with pytest.raises(RuntimeError, match="allow more --seconds"):
        measure(Busy(), 1, 2, 0.0, 0.005)  # type: ignore[arg-type]
