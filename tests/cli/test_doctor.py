"""``doctor`` names what is wrong, and what to change."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from geventpool.__main__ import main as run
from geventpool.advise.servers import MySQLTarget
from geventpool.advise.sizing import Capacity
from geventpool.doctor import command, process, program, servers
from geventpool.doctor.finding import ERROR, OK, WARNING, Finding
from geventpool.doctor.inspection import inspect
from tests.servers import MariaDBServer, RedisServer, free_port

SECRET = "s3cr3t-w0rd"

Capture = pytest.CaptureFixture[str]


def found(capsys: Capture, *arguments: str, status: int = 0) -> dict[str, Finding]:
    """The findings of the command, the last of each check."""
    assert run(["doctor", "--json", *arguments]) == status
    said = capsys.readouterr().out
    assert SECRET not in said
    return {each["check"]: Finding(**each) for each in json.loads(said)}


# The process


def test_an_ordinary_environment_is_well(capsys: Capture) -> None:
    """As the tests run in one."""
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "ok       gevent: " in said and "event loop" in said and "->" not in said


def test_old_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version that is needed."""
    have = {"gevent": "24.2rc1", "redis": "7.0", "PyMySQL": None}
    monkeypatch.setattr(process, "installed", have.get)
    findings = {each.check: each for each in process.check_process(None)}
    assert findings["gevent"].level == ERROR
    assert findings["gevent"].advice == "install gevent 25.9.1 or newer"
    assert findings["redis"].level == OK and "PyMySQL" not in findings
    assert findings["hiredis"].level == WARNING
    monkeypatch.setattr(process, "installed", {"gevent": "beta"}.get)
    findings = {each.check: each for each in process.check_process(None)}
    assert findings["gevent"].level == ERROR and "hiredis" not in findings


def test_a_package_that_is_not_installed_has_no_version() -> None:
    """Drivers are optional."""
    assert process.installed("geventpool-no-such-package") is None


def test_a_loop_or_resolver_that_blocks_is_named() -> None:
    """They are set by variables of the environment and forgotten."""

    class Hub:
        class loop:
            backend = "select"

        resolver = type("R", (), {"__module__": "gevent.resolver.blocking"})()

    loop, resolver = process.check_loop(Hub)
    assert loop.level == WARNING and "GEVENT_BACKEND" in loop.advice
    assert resolver.level == ERROR and "GEVENT_RESOLVER" in resolver.advice


def test_too_few_open_files_are_named() -> None:
    """Each connection needs one."""
    check = process.check_files
    assert check(resource.RLIM_INFINITY, 9).text == "no limit"
    assert check(100, None).level == OK
    assert check(1024, 200).level == OK
    finding = check(256, 200)
    assert finding.level == ERROR and "ulimit -n 264" in finding.advice


# The program


PATCHED = "from gevent import monkey\nmonkey.patch_all()\n"


@pytest.mark.parametrize(
    ("source", "check", "level", "words"),
    [
        (PATCHED, "patching", OK, "socket"),
        (PATCHED, "order", OK, "no module keeps"),
        ("", "patching", ERROR, "socket, ssl"),
        ("from gevent import monkey\nmonkey.patch_dns()\n", "patching", ERROR, "ssl"),
        ("import early\n" + PATCHED, "order", ERROR, "early"),
        ("import os\nos._exit(3)", "import", ERROR, "status 3"),
        ("raise ValueError('s3cr3t-w0rd')", "import", ERROR, "ValueError at shop.py:1"),
        ("import os\nos.environ['NO_SUCH']", "import", ERROR, "KeyError at shop.py:2"),
        ("import no_such_module", "import", ERROR, "ModuleNotFoundError at shop.py:1"),
    ],
)
def test_the_patching_of_a_program_is_checked(
    source: str,
    check: str,
    level: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """In a process of its own: this one is patched."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(source)
    (tmp_path / "early.py").write_text("from socket import create_connection, socket\n")
    findings = found(capsys, "--program", "shop", status=int(level == ERROR))
    assert findings[check].level == level and words in findings[check].text


def test_a_program_that_gunicorn_patches_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is correct, and looks like one that nobody patches."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text("")
    patching, *_ = program.check_program("shop")
    assert "'gunicorn -k gevent' without preload_app" in patching.advice


def test_an_import_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that starts a server when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text("import threading\nthreading.Event().wait()")
    (finding,) = program.check_program("shop", 0.2)
    assert finding.level == ERROR and "within 0.2 s" in finding.text


def test_an_answer_that_a_child_keeps_back_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child of the program has the descriptor too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(
        "import os, select\n"
        "ready, begun = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.write(begun, b'x'); os.setsid()\n"
        "    select.select([], [], [], 1); os._exit(0)\n"
        "os.read(ready, 1); os._exit(0)\n"
    )
    (finding,) = program.check_program("shop")
    assert finding.level == ERROR and "status 0" in finding.text


def test_many_modules_are_counted_and_warnings_are_told() -> None:
    """A long list helps nobody."""
    names = [f"m{number:02}" for number in range(20)]
    report = {"patched": ["ssl"], "unpatched": names, "warnings": 2}
    order, warned = program.check_order(report)
    assert "m07 and 12 more" in order.text and warned.level == WARNING


def test_a_program_is_inspected_without_running_it_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the inspection says of this process, which is patched."""
    monkeypatch.setattr("sys.path", [])
    report = inspect("json")
    assert "socket" in report["patched"]  # type: ignore[operator]
    assert "failed" in inspect("no_such_module")
    monkeypatch.delitem(__import__("sys").modules, "gevent.monkey")
    assert inspect("json")["patched"] == []


# The servers


def test_a_redis_server_is_compared_with_the_settings(
    redis_server: RedisServer, capsys: Capture
) -> None:
    """The product of workers and connections is what a server sees."""
    url = f"redis://127.0.0.1:{redis_server.port}"
    findings = found(capsys, "--redis", url, "--workers", "2")
    assert findings["connections"].level == OK
    assert findings["idle time-out"].level == OK
    findings = found(
        capsys, "--redis", url, "--workers", "9", "--max-connections", "5000", status=1
    )
    assert findings["connections"].level == ERROR
    assert findings["connections"].advice.startswith("max_connections=")


def test_a_mysql_server_is_compared_with_the_settings(
    mariadb_server: MariaDBServer, capsys: Capture
) -> None:
    """Its limit and its time-out for idle connections."""
    url = f"mysql://root@127.0.0.1:{mariadb_server.port}/"
    findings = found(capsys, "--mysql", url, "--max-connections", "1")
    assert findings["connections"].level == OK
    assert "28800 s" in findings["idle time-out"].text
    arguments = ["--mysql", url, "--max-connections", "1", "--max-idle"]
    assert found(capsys, *arguments, "60")["idle time-out"].level == OK
    finding = found(capsys, *arguments, "40000")["idle time-out"]
    assert finding.level == WARNING and finding.advice == "max_idle=23040"


@pytest.mark.parametrize("kind", ["redis", "mysql"])
def test_a_server_that_is_not_there_is_told_of(kind: str, capsys: Capture) -> None:
    """Without the password."""
    url = f"{kind}://u:{SECRET}@127.0.0.1:{free_port()}"
    findings = found(capsys, f"--{kind}", url, status=1)
    assert findings["server"].level == ERROR and "efused" in findings["server"].text


def test_a_missing_driver_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """With the extra that brings it."""

    def absent(url: str) -> Any:
        raise ImportError("No module named 'driver'")

    monkeypatch.setitem(command.TARGETS, "redis", absent)  # type: ignore[attr-defined]
    findings = found(capsys, "--redis", "redis://127.0.0.1", status=1)
    assert "geventpool[redis]" in findings["server"].advice


def test_limits_that_are_hidden_or_too_low_are_told_of() -> None:
    """An account may not be allowed to ask."""
    settings = servers.Settings(8, 10, None, None)
    check = servers.check_capacity
    assert check(Capacity(), settings).level == WARNING
    finding = check(Capacity(10, 6), settings)
    assert finding.level == ERROR and "fewer workers" in finding.advice


def test_an_account_that_may_not_ask_for_the_time_out_is_served(
    redis_server: RedisServer, capsys: Capture
) -> None:
    """Managed servers forbid CONFIG."""
    with Redis(redis_server.host, redis_server.port) as client:
        client.acl_setuser(
            "guest", enabled=True, nopass=True, commands=["+@all", "-config"]
        )
    try:
        url = f"redis://guest:x@127.0.0.1:{redis_server.port}"
        assert found(capsys, "--redis", url)["idle time-out"].level == OK
    finally:
        with Redis(redis_server.host, redis_server.port) as client:
            client.acl_deluser("guest")


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["--proxy-timeout", "60", "--max-idle", "30"], OK),
        (["--proxy-timeout", "60"], WARNING),
        (["--proxy-timeout", "20"], ERROR),
    ],
)
def test_the_time_out_of_a_proxy_is_compared(
    arguments: list[str], level: str, capsys: Capture
) -> None:
    """A forgotten connection is found only when it is used."""
    findings = found(capsys, *arguments, status=int(level == ERROR))
    assert findings["proxy"].level == level


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--workers", "0"], "--workers: must be a whole number from 1"),
        (["--workers", "x"], "--workers: must be a whole number from 1"),
        (["--max-idle", "0"], "--max-idle: must be a number of seconds"),
        (["--max-idle", "inf"], "--max-idle: must be a number of seconds"),
        (["--redis", f"http://u:{SECRET}@host"], "--redis: redis-py cannot read"),
        (["--mysql", f"http://u:{SECRET}@host"], "--mysql: "),
    ],
)
def test_a_bad_argument_is_named_with_its_rule(
    arguments: list[str], words: str, capsys: Capture
) -> None:
    """Exit status 2, and no password."""
    assert run(["doctor", *arguments]) == 2
    said = "".join(capsys.readouterr())
    assert words in said and SECRET not in said


def test_the_advice_is_shown_below_its_finding(capsys: Capture) -> None:
    """One line each."""
    assert run(["doctor", "--proxy-timeout", "20"]) == 1
    assert "\n         -> max_idle=16\n" in capsys.readouterr().out


def test_targets_are_those_of_advise() -> None:
    """They never write."""
    assert issubclass(servers.TARGETS["mysql"], MySQLTarget)
